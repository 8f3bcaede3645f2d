//! Pickles of our own making: opcodes at random, and what torch writes with anything in its
//! place.

use crate::draws::Draws;

/// References of a data set, one of them many times over, with much or little in it.
pub fn references(draws: &mut Draws) -> Vec<u8> {
    let mut pickle = b"\x80\x02](".to_vec();
    pickle.extend(
        b"}q\0(X\x05\0\0\0splitX\x03\0\0\0valX\x06\0\0\0ann_idK\x0dX\x08\0\0\0image_idK\x08",
    );
    pickle.extend(b"X\x09\0\0\0sentences](");
    let words = draws.size(12);
    pickle.extend(b"}q\x01X\x04\0\0\0sentX");
    pickle.extend((words as u32).to_le_bytes());
    pickle.extend(vec![b'w'; words]);
    pickle.push(b's');
    pickle.extend(b"h\x01".repeat(draws.size(10)));
    pickle.push(b'e');
    pickle.extend(b"K\0N".repeat(draws.size(11)));
    pickle.push(b'u');
    pickle.extend(b"h\0".repeat(draws.size(12)));
    pickle.extend(b"e.");
    pickle
}

/// A module with many attributes that are no tensors, many times in another.
fn crowded(draws: &mut Draws, pickle: &mut Vec<u8>) {
    pickle.extend(b"c__torch__\nM\n)\x81q\0}(c__torch__\nM\n)\x81q\x01}(X\x01\0\0\0aq\x02");
    value(draws, pickle);
    pickle.extend(b"h\x02N".repeat(draws.size(11)));
    pickle.extend(b"ubq\x03");
    pickle.extend(b"X\x01\0\0\0bh\x03h\x02h\x03".repeat(draws.size(11)));
    pickle.extend(b"ub");
}

/// Opcodes without an argument.
const BARE: &[u8] = b"N\x88\x89()]}\x8f\x85\x86\x87tld\x91ae\x90su012\x94\x93R\x81\x92bQ";

/// A pickle.
pub fn draw(draws: &mut Draws) -> Vec<u8> {
    let mut pickle = vec![0x80, 2];
    match draws.below(9) {
        0 => modules(draws, &mut pickle),
        8 => crowded(draws, &mut pickle),
        1 => repeated(draws, &mut pickle),
        2 | 3 => {
            for _ in 0..draws.size(6) {
                opcode(draws, &mut pickle);
            }
        }
        _ => state_dict(draws, &mut pickle),
    }
    if !draws.once_in(16) {
        pickle.push(b'.');
    }
    pickle
}

fn opcode(draws: &mut Draws, pickle: &mut Vec<u8>) {
    match draws.below(14) {
        0 => number(draws, pickle),
        1 => text(draws, pickle),
        2 => pickle.extend([b'q', draws.byte() & 7]),
        3 | 4 => pickle.extend([b'h', draws.byte() & 7]),
        5 => class(draws, pickle),
        6 => pickle.extend(*draws.of(&[
            &b"I7\n"[..],
            b"L9L\n",
            b"F1.5\n",
            b"S'a'\n",
            b"V\\u12\n",
            b"p1\n",
            b"g1\n",
            b"Pid\n",
        ])),
        7 => {
            let (opcode, width) = *draws.of(&[
                (b'C', 1),
                (b'B', 4),
                (0x8e, 8),
                (0x96, 8),
                (0x8d, 8),
                (b'T', 4),
                (0x8b, 4),
                (0x95, 8),
            ]);
            pickle.push(opcode);
            pickle.extend(&draws.extreme().to_le_bytes()[..width]);
        }
        8 => pickle.push(draws.byte()),
        _ => pickle.push(*draws.of(BARE)),
    }
}

/// A few opcodes over and over: deep nesting, shared values, long lists.
fn repeated(draws: &mut Draws, pickle: &mut Vec<u8>) {
    for _ in 0..draws.size(3) {
        opcode(draws, pickle);
    }
    let from = pickle.len();
    for _ in 0..draws.size(3) {
        opcode(draws, pickle);
    }
    let part = pickle[from..].to_vec();
    for _ in 0..draws.size(11) {
        pickle.extend(&part);
        if pickle.len() > 1 << 15 {
            return;
        }
    }
}

fn number(draws: &mut Draws, pickle: &mut Vec<u8>) {
    let wide = draws.extreme().to_le_bytes();
    match draws.below(4) {
        0 | 1 => pickle.extend([b'K', draws.byte() & 7]),
        2 => {
            pickle.push(b'J');
            pickle.extend(&wide[..4]);
        }
        _ => {
            pickle.extend([0x8a, 8]);
            pickle.extend(wide);
        }
    }
}

fn text(draws: &mut Draws, pickle: &mut Vec<u8>) {
    let word = *draws.of(&[
        "a",
        "b.c",
        "0",
        "1",
        "state_dict",
        "model",
        "cpu",
        "é",
        "",
        "module.x",
        "vocab_size",
    ]);
    pickle.push(b'X');
    pickle.extend((word.len() as u32).to_le_bytes());
    pickle.extend(word.bytes());
}

fn class(draws: &mut Draws, pickle: &mut Vec<u8>) {
    let class = draws.of(&[
        "collections\nOrderedDict",
        "torch._utils\n_rebuild_tensor_v2",
        "torch._utils\n_rebuild_parameter",
        "torch._tensor\n_rebuild_from_type_v2",
        "torch\nFloatStorage",
        "torch\nHalfStorage",
        "torch\nBoolStorage",
        "torch\nSize",
        "__torch__\nM",
        "os\nsystem",
    ]);
    pickle.extend(format!("c{class}\n").bytes());
}

/// A tuple of sizes, or now and then anything.
fn sizes(draws: &mut Draws, pickle: &mut Vec<u8>, rank: usize) {
    pickle.push(b'(');
    for _ in 0..rank {
        match draws.once_in(12) {
            true => number(draws, pickle),
            false => pickle.extend([b'K', draws.byte() & 3]),
        }
    }
    pickle.push(b't');
}

fn tensor(draws: &mut Draws, pickle: &mut Vec<u8>) {
    let rank = if draws.once_in(20) {
        draws.size(4)
    } else {
        draws.below(4)
    };
    pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storage");
    pickle.extend(*draws.of(&[
        &b"ctorch\nFloatStorage\n"[..],
        b"ctorch\nHalfStorage\n",
        b"ctorch\nBoolStorage\n",
    ]));
    pickle.extend([b'X', 1, 0, 0, 0, b'0' + draws.byte() % 4]);
    pickle.extend(b"X\x03\0\0\0cpuK\x10tQ");
    match draws.once_in(6) {
        true => number(draws, pickle),
        false => pickle.extend(b"K\0"),
    }
    sizes(draws, pickle, rank);
    sizes(draws, pickle, rank);
    pickle.extend(b"\x89)tR");
    if draws.once_in(3) {
        pickle.extend([b'q', draws.byte() & 7]);
    }
}

fn value(draws: &mut Draws, pickle: &mut Vec<u8>) {
    match draws.below(6) {
        0 => opcode(draws, pickle),
        1 => pickle.extend([b'h', draws.byte() & 7]),
        _ => tensor(draws, pickle),
    }
}

fn state_dict(draws: &mut Draws, pickle: &mut Vec<u8>) {
    pickle.extend(b"}(");
    for _ in 0..draws.size(3) {
        text(draws, pickle);
        value(draws, pickle);
    }
    pickle.push(b'u');
}

/// Modules in modules, of which some are shared, or in themselves.
fn modules(draws: &mut Draws, pickle: &mut Vec<u8>) {
    let depth = draws.size(6);
    for _ in 0..depth {
        pickle.extend(b"c__torch__\nM\n)\x81");
        if draws.once_in(2) {
            pickle.extend([b'q', draws.byte() & 3]);
        }
        pickle.extend(b"}(");
        for _ in 0..draws.below(3) {
            text(draws, pickle);
            value(draws, pickle);
        }
        text(draws, pickle);
    }
    value(draws, pickle);
    for _ in 0..depth {
        pickle.extend(b"ub");
        // The module that was just made, a second time in the one around it.
        if draws.once_in(2) {
            pickle.extend([b'q', 9]);
            text(draws, pickle);
            pickle.extend([b'h', 9]);
        }
    }
}
