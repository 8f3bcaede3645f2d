//! Key maps: reading, what does not fit, and the way back.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use twinspan_sdk::checkpoint::Checkpoint;
use twinspan_sdk::frozen::Frozen;
use twinspan_sdk::key_map::{Entry, Expected, KeyMap, KeyMapError, Pattern};

/// A tensor of consecutive numbers from `first` on.
fn counting(first: usize, shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    Tensor::arange(first as f32, (first + count) as f32, &Device::Cpu)
        .and_then(|t| t.reshape(shape))
        .unwrap()
}

fn checkpoint(tensors: &[(&str, &[usize])]) -> Checkpoint {
    let tensors = tensors
        .iter()
        .map(|(name, shape)| (name.to_string(), Frozen::dense(&counting(0, shape))));
    Checkpoint::from_frozen("weights.pt", tensors.collect())
}

/// Width 2: a fused projection, a transposed matrix, a table and a scale.
fn map() -> KeyMap {
    KeyMap {
        name: "fused",
        also: &[],
        entries: vec![
            Entry::whole("attention.query", "attn.in_proj").rows(0..2),
            Entry::whole("attention.key", "attn.in_proj").rows(2..4),
            Entry::whole("attention.value", "attn.in_proj").rows(4..6),
            Entry::whole("joint", "proj").transposed(),
            Entry::whole("positions", "pos"),
            Entry::whole("scale", "logit_scale"),
        ],
        ignored: vec!["*.num_batches_tracked".into(), "position_ids".into()],
    }
}

fn expected() -> Vec<Expected> {
    vec![
        Expected::exactly("attention.query", [2, 2]),
        Expected::exactly("attention.key", [2, 2]),
        Expected::exactly("attention.value", [2, 2]),
        Expected::exactly("joint", [3, 2]),
        Expected::any_rows("positions", [7, 2]),
        Expected::exactly("scale", []),
    ]
}

type Shapes = BTreeMap<&'static str, &'static [usize]>;

const FITTING: [(&str, &[usize]); 6] = [
    ("attn.in_proj", &[6, 2]),
    ("logit_scale", &[]),
    ("bn.num_batches_tracked", &[]),
    ("pos", &[5, 2]),
    ("position_ids", &[1, 5]),
    ("proj", &[2, 3]),
];

fn fitting_but(change: &dyn Fn(&mut Shapes)) -> Checkpoint {
    let mut tensors = BTreeMap::from(FITTING);
    change(&mut tensors);
    checkpoint(&tensors.into_iter().collect::<Vec<_>>())
}

fn values(tensor: &Frozen) -> Vec<f32> {
    let dense = tensor.tensor(DType::F32, &Device::Cpu).unwrap();
    dense.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn rows_transposes_and_tables_are_read() {
    let read = map().read(&checkpoint(&FITTING), &expected()).unwrap();
    assert_eq!(read.len(), 6);
    assert_eq!(values(&read["attention.key"]), [4., 5., 6., 7.]);
    assert_eq!(read["joint"].shape().dims(), [3, 2]);
    assert_eq!(values(&read["joint"]), [0., 3., 1., 4., 2., 5.]);
    assert_eq!(read["positions"].shape().dims(), [5, 2]);
}

#[test]
fn what_does_not_fit_is_named_with_what_was_meant() {
    let refused = |change: &dyn Fn(&mut Shapes)| {
        let error = map().read(&fitting_but(change), &expected()).unwrap_err();
        error.to_string()
    };
    assert_eq!(
        refused(&|t| {
            t.remove("pos");
        }),
        "weights.pt does not fit the layout `fused` (1 missing): `pos` is missing"
    );
    assert_eq!(
        refused(&|t| {
            t.remove("logit_scale");
            t.insert("logit_scales", &[]);
        }),
        "weights.pt does not fit the layout `fused` (1 missing, 1 extra): `logit_scale` is \
         missing; nearest unused: `logit_scales`\n  `logit_scales` is not known; nearest \
         missing: `logit_scale`"
    );
    assert_eq!(
        refused(&|t| {
            t.insert("pos", &[5, 3]);
        }),
        "weights.pt does not fit the layout `fused` (1 of another shape): `pos` has shape \
         [5, 3], which does not give `positions` [7, 2] (any first dimension)"
    );
    assert_eq!(
        refused(&|t| {
            t.insert("proj", &[3, 2]);
        }),
        "weights.pt does not fit the layout `fused` (1 of another shape): `proj` has shape \
         [3, 2], which does not give `joint` [3, 2] by transposition"
    );
    let rows = refused(&|t| {
        t.insert("attn.in_proj", &[9, 2]);
    });
    assert!(rows.contains("(3 of another shape)"), "{rows}");
    assert!(rows.contains("`attn.in_proj` has shape [9, 2], which does not give `attention.key` [2, 2] from rows 2..4 of 6"));
}

#[test]
fn ten_problems_are_shown_and_the_rest_counted() {
    let names: Vec<String> = (0..14).map(|i| format!("layer.{i}.weight")).collect();
    let mut tensors = BTreeMap::from(FITTING);
    tensors.extend(names.iter().map(|name| (name.as_str(), &[1usize][..])));
    let tensors: Vec<_> = tensors.into_iter().collect();
    let text = map()
        .read(&checkpoint(&tensors), &expected())
        .unwrap_err()
        .to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 11);
    assert_eq!(
        lines[0],
        "weights.pt does not fit the layout `fused` (14 extra): `layer.0.weight` is not known"
    );
    assert_eq!(lines[10], "  and 4 more");
}

#[test]
fn a_tower_of_its_own_and_an_unknown_canonical_name() {
    let read = map().read(&checkpoint(&FITTING), &expected()[4..]).unwrap();
    assert_eq!(read.len(), 2);
    let unknown = [Expected::exactly("tower.bias", [2])];
    let error = map().read(&checkpoint(&FITTING), &unknown).unwrap_err();
    assert!(
        error.to_string().contains("`tower.bias` is missing"),
        "{error}"
    );
}

#[test]
fn the_layout_with_the_most_matches_is_the_files() {
    assert_eq!(map().matches(&checkpoint(&FITTING)), 4);
    assert_eq!(map().matches(&checkpoint(&[("visual.proj", &[2, 2])])), 0);
}

#[test]
fn the_layout_of_a_checkpoint_is_the_best_or_none() {
    let other = KeyMap {
        name: "other",
        also: &[],
        entries: (0..5)
            .map(|i| Entry::whole(format!("c.{i}"), format!("e.{i}")))
            .collect(),
        ignored: vec![],
    };
    let maps = [other, map()];
    assert_eq!(
        KeyMap::of(&maps, &checkpoint(&FITTING)).unwrap().name,
        "fused"
    );
    // One of four names is enough to be told what is missing.
    let some = checkpoint(&[("logit_scale", &[]), ("bert.pooler", &[2])]);
    assert_eq!(KeyMap::of(&maps, &some).unwrap().name, "fused");
    let refused = |tensors| {
        KeyMap::of(&maps, &checkpoint(tensors))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refused(&[
            ("bert.a", &[2]),
            ("bert.b", &[2]),
            ("bert.c", &[2]),
            ("bert.d", &[2])
        ]),
        "weights.pt is in none of the layouts `other`, `fused`: of the tensors of `fused` it has \
         0 of 4; its own are `bert.a`, `bert.b`, `bert.c`, …"
    );
    assert!(refused(&[]).ends_with("0 of 4; it holds no tensor"));
}

/// A table and a scale as other files of a layout have them.
fn leading() -> KeyMap {
    KeyMap {
        name: "leading",
        also: &[],
        entries: vec![
            Entry::whole("positions", "pos").leading(1),
            Entry::whole("probe", "probe").leading(2),
            Entry::whole("scale", "scale").leading(0),
            Entry::whole("patch", "conv"),
            Entry::whole("query", "qk").rows(0..1).leading(1),
            Entry::whole("key", "qk").rows(1..3).leading(1),
        ],
        ignored: vec![],
    }
}

#[test]
fn dimensions_of_one_in_front_are_read_and_written() {
    let expected = [
        Expected::any_rows("positions", [3, 2]),
        Expected::exactly("probe", [2]),
        Expected::exactly("scale", []),
        Expected::exactly("patch", [2, 4]),
        Expected::exactly("query", [1, 2]),
        Expected::exactly("key", [2, 2]),
    ];
    let rest: [(&str, &[usize]); 2] = [("conv", &[2, 4]), ("qk", &[3, 2])];
    let read = |tensors: &[(&str, &[usize])]| {
        let tensors = checkpoint(&[&rest[..], tensors].concat());
        leading().read(&tensors, &expected)
    };
    for (positions, probe, scale) in [
        (&[5, 2][..], &[2][..], &[][..]),
        (&[1, 5, 2], &[1, 1, 2], &[1]),
        (&[1, 1, 5, 2], &[1, 2], &[1, 1]),
    ] {
        let read = read(&[("pos", positions), ("probe", probe), ("scale", scale)]).unwrap();
        assert_eq!(read["positions"].shape().dims(), [5, 2]);
        assert_eq!(
            values(&read["positions"]),
            (0..10).map(|i| i as f32).collect::<Vec<_>>()
        );
        assert_eq!(read["probe"].shape().dims(), [2]);
        assert!(read["scale"].shape().dims().is_empty());
    }
    let refused = read(&[("pos", &[2, 5, 2]), ("probe", &[2, 1]), ("scale", &[2])]);
    assert_eq!(
        refused.unwrap_err().to_string(),
        "weights.pt does not fit the layout `leading` (3 of another shape): `pos` has shape \
         [2, 5, 2], which does not give `positions` [3, 2] (behind any dimensions of one) (any \
         first dimension)\n  `probe` has shape [2, 1], which does not give `probe` [2] (behind \
         any dimensions of one)\n  `scale` has shape [2], which does not give `scale` [] (behind \
         any dimensions of one)"
    );
    // A convolution is no linear layer, though its elements lie in the same order.
    let convolution = checkpoint(&[("conv", &[2, 1, 2, 2])]);
    let linear = [Expected::exactly("patch", [2, 4])];
    assert!(leading().read(&convolution, &linear).is_err());

    let canonical = [
        ("positions", &[3, 2][..]),
        ("probe", &[2]),
        ("scale", &[]),
        ("patch", &[2, 4]),
        ("query", &[1, 2]),
        ("key", &[2, 2]),
    ]
    .map(|(name, shape)| (name.to_string(), counting(0, shape)));
    let written = leading().write(BTreeMap::from(canonical)).unwrap();
    let shapes: Vec<(&str, &[usize])> = written
        .iter()
        .map(|(n, t)| (n.as_str(), t.dims()))
        .collect();
    assert_eq!(
        shapes,
        [
            ("conv", &[2, 4][..]),
            ("pos", &[1, 3, 2]),
            ("probe", &[1, 1, 2]),
            ("qk", &[1, 3, 2]),
            ("scale", &[])
        ]
    );
    let mut uneven = leading();
    uneven.entries[5] = Entry::whole("key", "qk").rows(1..3);
    assert_eq!(
        uneven.write(BTreeMap::new()).unwrap_err().to_string(),
        "the layout `leading` is not invertible: `query` and `key` are of `qk` behind other \
         dimensions of one"
    );
}

#[test]
fn writing_is_refused_where_it_could_not_be_read_again() {
    let write = |tensors: &[(&str, &[usize])], map: KeyMap| {
        let tensors = tensors.iter().map(|(n, s)| (n.to_string(), counting(0, s)));
        map.write(tensors.collect())
    };
    let query: (&str, &[usize]) = ("attention.query", &[2, 2]);
    let rest: [(&str, &[usize]); 2] = [("attention.key", &[2, 2]), ("attention.value", &[3, 2])];
    let refused = |tensors: &[(&str, &[usize])]| write(tensors, map()).unwrap_err().to_string();
    assert_eq!(
        refused(&[query]),
        "the layout `fused` cannot write `attn.in_proj`: it also needs `attention.key`, \
         `attention.value`"
    );
    assert_eq!(
        refused(&[query, rest[0], rest[1]]),
        "the layout `fused` cannot place `attention.value` of shape [3, 2]: rows 4..6 of \
         `attn.in_proj` are 2"
    );
    assert_eq!(
        refused(&[("scales", &[])]),
        "the layout `fused` has no place for `scales`; nearest known: `scale`"
    );
    assert_eq!(
        refused(&[("joint", &[2, 2, 2])]),
        "the layout `fused` cannot place `joint` of shape [2, 2, 2]: only a matrix can be \
         transposed"
    );
    let mut twice = map();
    twice.entries.push(Entry::whole("other", "proj"));
    let error = write(&[], twice).unwrap_err();
    assert!(
        matches!(error, KeyMapError::NotInvertible { .. }),
        "{error}"
    );
}

/// One external tensor: how it is split, its row width, whether it is transposed, and the
/// dimensions of one in front.
fn layout() -> impl Strategy<Value = Vec<(Vec<usize>, usize, bool, Option<usize>)>> {
    let tensor = (
        proptest::collection::vec(1usize..4, 1..4),
        1usize..4,
        any::<bool>(),
        proptest::option::of(0usize..3),
    );
    proptest::collection::vec(tensor, 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_reads_back(layout in layout(), ignored in any::<bool>()) {
        let (mut entries, mut tensors, mut expected) = (vec![], BTreeMap::new(), vec![]);
        for (i, (parts, width, transposed, leading)) in layout.iter().enumerate() {
            let mut row = 0;
            for (j, rows) in parts.iter().enumerate() {
                let name = format!("canonical.{i}.{j}");
                let mut entry = Entry::whole(&name, format!("external.{i}"));
                if parts.len() > 1 {
                    entry = entry.rows(row..row + rows);
                }
                let mut shape = vec![*rows, *width];
                entry.leading = *leading;
                if *transposed {
                    entry = entry.transposed();
                    shape.reverse();
                }
                row += rows;
                entries.push(entry);
                tensors.insert(name.clone(), counting(100 * i + 10 * j, &shape));
                expected.push(Expected::exactly(name, shape));
            }
        }
        let map = KeyMap { name: "drawn", also: &[], entries, ignored: vec![Pattern::from("*.tracked")] };
        let mut written = map.write(tensors.clone()).unwrap();
        prop_assert_eq!(written.len(), layout.len());
        if ignored {
            written.insert("bn.tracked".into(), counting(0, &[1]));
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("drawn.safetensors");
        safetensors::serialize_to_file(&written, None, &path).unwrap();
        let file = Checkpoint::open(&path).unwrap();
        prop_assert_eq!(map.matches(&file), layout.len());
        let read = map.read(&file, &expected).unwrap();
        prop_assert_eq!(read.len(), tensors.len());
        for (name, tensor) in &tensors {
            prop_assert_eq!(read[name].shape(), tensor.shape());
            let original = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            prop_assert_eq!(values(&read[name]), original);
            // Only transposed tensors leave the mapping.
            let whole = map.entries.iter().find(|e| e.canonical == *name).unwrap();
            prop_assert_eq!(read[name].bytes().is_some(), !whole.transposed);
        }
    }
}
