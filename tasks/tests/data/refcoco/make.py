"""Writes the pickles beside this file: one data set in the protocols that RefCOCO's files have.

Python 2's byte strings cannot be had from Python 3's pickle; `python2.p` is protocol 0 put
together by hand, opcode by opcode, as Python 2 wrote it.
"""

import pathlib
import pickle

HERE = pathlib.Path(__file__).parent


def reference(ref_id, ann_id, image_id, split, sentences):
    return {
        "ref_id": ref_id,
        "ann_id": ann_id,
        "category_id": 1,
        "file_name": f"COCO_train2014_{image_id:012}_{ann_id}.jpg",
        "image_id": image_id,
        "sent_ids": [sent_id for sent_id, _ in sentences],
        "split": split,
        "sentences": [
            {"raw": sent.upper(), "sent": sent, "sent_id": sent_id, "tokens": sent.split()}
            for sent_id, sent in sentences
        ],
    }


REFERENCES = [
    reference(1, 11, 7, "train", [(1, "the left thing"), (2, "it's caf\u00e9 \u5f62")]),
    reference(2, 12, 7, "train", [(3, "the crowd")]),
    reference(3, 13, 8, "testA", [(4, "two parts")]),
    # The same object once more, by another's words.
    reference(4, 11, 7, "val", [(5, "that one")]),
]


def python2(value):
    if isinstance(value, int):
        return b"I%d\n" % value
    if isinstance(value, str) and value.isascii():
        return b"S" + repr(value).encode() + b"\n"
    if isinstance(value, str):
        return b"V" + value.encode("raw_unicode_escape") + b"\n"
    if isinstance(value, list):
        return b"(l" + b"".join(python2(item) + b"a" for item in value)
    return b"(d" + b"".join(python2(k) + python2(v) + b"s" for k, v in value.items())


for protocol in [0, 2, 4]:
    (HERE / f"protocol{protocol}.p").write_bytes(pickle.dumps(REFERENCES, protocol))
written = python2(REFERENCES) + b"."
assert pickle.loads(written) == REFERENCES
(HERE / "python2.p").write_bytes(written)
