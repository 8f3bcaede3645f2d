//! A reader of Python pickles that builds data and never executes anything.
//!
//! Owns the opcodes of protocols 0 to 5 that `pickle.dump`, `torch.save` and their neighbours
//! write, and the graph of values they describe. Calls stay calls: what they mean is the caller's
//! ([`Checkpoint`](crate::checkpoint::Checkpoint) for tensors). Readers that build nested values
//! are not used on foreign bytes: they copy memoised values (a few hundred bytes can ask for all
//! memory) and drop nested ones recursively. Here a value is an index into one arena, so memory
//! and time are linear in the input, and no depth overflows a stack.

mod arena;

use std::borrow::Cow;
use std::collections::HashMap;

use arena::Arena;

/// Why bytes are not a pickle that can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its pickle cannot be read: {problem} (before byte {at})")]
pub struct PickleError {
    /// What was met.
    pub problem: String,
    /// Bytes that had been read by then.
    pub at: usize,
}

/// The place of a value in its [`Pickle`].
pub type Id = u32;

/// A value as far as weights and annotations need it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// None, a truth value, bytes, a set, a whole number beyond 64 bits.
    Opaque,
    /// A whole number.
    Int(i64),
    /// A fraction.
    Float(f64),
    /// Text. Python 2's byte strings are text too: in UTF-8, or else a character a byte.
    Text(Cow<'a, str>),
    /// A class or function by name.
    Class {
        /// Its module.
        module: &'a str,
        /// Its name in there.
        name: &'a str,
    },
    /// A tuple.
    Tuple(Vec<Id>),
    /// A list.
    List(Vec<Id>),
    /// A dict, as its entries were written: of two with one key, Python keeps the later.
    Dict(Vec<(Id, Id)>),
    /// `callable(*args)`, not called.
    Call {
        /// The callable's place.
        callable: Id,
        /// The place of its arguments, a tuple.
        args: Id,
    },
    /// An object whose state is set: a module, a TorchScript object.
    Object {
        /// The place of its class.
        class: Id,
        /// The place of its state, a dict of its attributes for most classes.
        state: Id,
    },
    /// A reference to something outside the pickle: a storage.
    Persistent(Id),
}

/// The values of one pickle.
#[derive(Debug)]
pub struct Pickle<'a> {
    values: Arena<'a>,
    root: Id,
    length: usize,
}

impl<'a> Pickle<'a> {
    /// Reads a pickle from its first byte to its STOP; what follows is not looked at.
    ///
    /// # Errors
    /// [`PickleError`], with the place.
    pub fn read(bytes: &'a [u8]) -> Result<Self, PickleError> {
        let mut machine = Machine {
            rest: bytes,
            values: Arena::new(bytes.len()),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        let root = machine.run().map_err(|problem| PickleError {
            problem,
            at: bytes.len() - machine.rest.len(),
        })?;
        Ok(Self {
            length: bytes.len() - machine.rest.len(),
            values: machine.values,
            root,
        })
    }

    /// What was pickled.
    pub fn root(&self) -> &Value<'a> {
        self.values.get(self.root)
    }

    /// The place of what was pickled.
    pub fn root_id(&self) -> Id {
        self.root
    }

    /// Bytes of the pickle, from its first to its STOP.
    pub fn length(&self) -> usize {
        self.length
    }

    /// All values, in the order in which they were made.
    pub fn values(&self) -> impl Iterator<Item = &Value<'a>> {
        self.values.iter()
    }

    /// The value at `id`, which comes from this pickle.
    ///
    /// # Panics
    /// If `id` comes from a longer pickle.
    pub fn get(&self, id: Id) -> &Value<'a> {
        self.values.get(id)
    }
}

struct Machine<'a> {
    rest: &'a [u8],
    values: Arena<'a>,
    stack: Vec<Id>,
    /// Heights of the stack at each open mark.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

type Step<T> = Result<T, String>;

impl<'a> Machine<'a> {
    fn run(&mut self) -> Step<Id> {
        loop {
            let [opcode] = self.array()?;
            if opcode == b'.' {
                return self.pop();
            }
            if self.values.is_full() {
                return Err("it has too many values".into());
            }
            self.step(opcode)?;
        }
    }

    fn step(&mut self, opcode: u8) -> Step<()> {
        match opcode {
            // Protocol, frame.
            0x80 => self.skip(1)?,
            0x95 => self.skip(8)?,
            // Constants.
            b'N' | 0x88 | 0x89 => self.push(Value::Opaque),
            // Numbers.
            b'K' => self.push_int::<1>(false)?,
            b'M' => self.push_int::<2>(false)?,
            b'J' => self.push_int::<4>(true)?,
            0x8a => {
                let [length] = self.array()?;
                self.push_long(usize::from(length))?;
            }
            0x8b => {
                let length = self.length::<4>()?;
                self.push_long(length)?;
            }
            b'I' | b'L' => {
                let line = self.line()?.trim_end_matches('L');
                self.push(line.parse().map_or(Value::Opaque, Value::Int));
            }
            b'G' => {
                let bytes = self.array()?;
                self.push(Value::Float(f64::from_be_bytes(bytes)));
            }
            b'F' => {
                let line = self.line()?;
                self.push(line.parse().map_or(Value::Opaque, Value::Float));
            }
            // Text.
            b'X' => self.push_text::<4>()?,
            0x8c => self.push_text::<1>()?,
            0x8d => self.push_text::<8>()?,
            b'U' => self.push_text::<1>()?,
            b'T' => self.push_text::<4>()?,
            b'V' => {
                let line = self.byte_line()?;
                self.push(Value::Text(escaped_unicode(line)));
            }
            b'S' => {
                let line = self.byte_line()?;
                self.push(Value::Text(quoted(line)?));
            }
            // Bytes.
            b'C' => {
                let length = self.length::<1>()?;
                self.push_opaque(length)?;
            }
            b'B' => {
                let length = self.length::<4>()?;
                self.push_opaque(length)?;
            }
            0x8e | 0x96 => {
                let length = self.length::<8>()?;
                self.push_opaque(length)?;
            }
            // Containers.
            b'(' => self.marks.push(self.stack.len()),
            b')' => self.push(Value::Tuple(Vec::new())),
            b']' => self.push(Value::List(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            0x8f => self.push(Value::Opaque),
            0x85 => self.push_tuple(1)?,
            0x86 => self.push_tuple(2)?,
            0x87 => self.push_tuple(3)?,
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Tuple(items));
            }
            b'l' => {
                let items = self.pop_to_mark()?;
                self.push(Value::List(items));
            }
            b'd' => {
                let pairs = pairs(self.pop_to_mark()?)?;
                self.push(Value::Dict(pairs));
            }
            0x91 => {
                self.pop_to_mark()?;
                self.push(Value::Opaque);
            }
            b'a' => {
                let item = self.pop()?;
                self.extend_list(vec![item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.extend_list(items)?;
            }
            0x90 => {
                self.pop_to_mark()?;
                self.top()?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.extend_dict(vec![(key, value)])?;
            }
            b'u' => {
                let pairs = pairs(self.pop_to_mark()?)?;
                self.extend_dict(pairs)?;
            }
            // The stack.
            b'0' => {
                // Python pops a mark like a value.
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => {
                self.pop_to_mark()?;
            }
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            // The memo.
            b'q' => {
                let [slot] = self.array()?;
                self.put(u32::from(slot))?;
            }
            b'r' => {
                let slot = self.array()?;
                self.put(u32::from_le_bytes(slot))?;
            }
            b'p' => {
                let slot = self.slot()?;
                self.put(slot)?;
            }
            0x94 => {
                let slot = u32::try_from(self.memo.len()).map_err(|_| "the memo is full")?;
                self.put(slot)?;
            }
            b'h' => {
                let [slot] = self.array()?;
                self.fetch(u32::from(slot))?;
            }
            b'j' => {
                let slot = self.array()?;
                self.fetch(u32::from_le_bytes(slot))?;
            }
            b'g' => {
                let slot = self.slot()?;
                self.fetch(slot)?;
            }
            // Classes, calls and objects.
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Class { module, name });
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Text(Cow::Borrowed(module)), Value::Text(Cow::Borrowed(name))) =
                    (self.values.get(module), self.values.get(name))
                else {
                    return Err("a class without a name".into());
                };
                let class = Value::Class { module, name };
                self.push(class);
            }
            b'R' | 0x81 => self.call()?,
            0x92 => {
                self.pop()?;
                self.call()?;
            }
            b'b' => self.build()?,
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Persistent(id));
            }
            _ => return Err(format!("unknown opcode {opcode:#04x}")),
        }
        Ok(())
    }

    /// A call; that of a dict class is an empty dict, whose entries follow.
    fn call(&mut self) -> Step<()> {
        let (args, callable) = (self.pop()?, self.pop()?);
        let value = match self.values.get(callable) {
            Value::Class {
                module: "collections",
                name: "OrderedDict" | "defaultdict",
            } => Value::Dict(Vec::new()),
            _ => Value::Call { callable, args },
        };
        self.push(value);
        Ok(())
    }

    /// Sets an object's state, which only classes outside this reader understand. What a dict
    /// gets this way is torch's `_metadata`.
    fn build(&mut self) -> Step<()> {
        let state = self.pop()?;
        let object = self.top()?;
        let object = self.values.get_mut(object);
        if let Value::Call { callable, .. } = *object {
            *object = Value::Object {
                class: callable,
                state,
            };
        }
        Ok(())
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(self.values.push(value));
    }

    fn push_tuple(&mut self, length: usize) -> Step<()> {
        let from = self
            .stack
            .len()
            .checked_sub(length)
            .filter(|&n| n >= self.floor());
        let items = self
            .stack
            .split_off(from.ok_or("too few values for a tuple")?);
        self.push(Value::Tuple(items));
        Ok(())
    }

    fn push_int<const N: usize>(&mut self, signed: bool) -> Step<()> {
        let bytes = self.array::<N>()?;
        let value = little_endian(&bytes, signed);
        self.push(Value::Int(value));
        Ok(())
    }

    /// A whole number of any length; one that no size or offset has is opaque.
    fn push_long(&mut self, length: usize) -> Step<()> {
        let bytes = self.take(length)?;
        self.push(match length {
            0..=8 => Value::Int(little_endian(bytes, true)),
            _ => Value::Opaque,
        });
        Ok(())
    }

    fn push_text<const N: usize>(&mut self) -> Step<()> {
        let length = self.length::<N>()?;
        let bytes = self.take(length)?;
        self.push(Value::Text(text(bytes)));
        Ok(())
    }

    fn push_opaque(&mut self, length: usize) -> Step<()> {
        self.skip(length)?;
        self.push(Value::Opaque);
        Ok(())
    }

    fn extend_list(&mut self, items: Vec<Id>) -> Step<()> {
        let top = self.top()?;
        match self.values.get_mut(top) {
            Value::List(list) => list.extend(items),
            // A class of its own that behaves like a list; it holds no weights.
            Value::Call { .. } | Value::Object { .. } => {}
            _ => return Err("an item for something that is not a list".into()),
        }
        Ok(())
    }

    fn extend_dict(&mut self, pairs: Vec<(Id, Id)>) -> Step<()> {
        let top = self.top()?;
        match self.values.get_mut(top) {
            Value::Dict(dict) => dict.extend(pairs),
            Value::Call { .. } | Value::Object { .. } => {}
            _ => return Err("an entry for something that is not a dict".into()),
        }
        Ok(())
    }

    fn put(&mut self, slot: u32) -> Step<()> {
        let top = self.top()?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn fetch(&mut self, slot: u32) -> Step<()> {
        let id = self.memo.get(&slot).ok_or("a reference to nothing")?;
        self.stack.push(*id);
        Ok(())
    }

    /// Values below the last mark cannot be taken.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Step<Id> {
        match self.stack[self.floor()..].last() {
            Some(&id) => Ok(id),
            None => Err("a value is missing".into()),
        }
    }

    fn pop(&mut self) -> Step<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_to_mark(&mut self) -> Step<Vec<Id>> {
        let mark = self.marks.pop().ok_or("a mark is missing")?;
        Ok(self.stack.split_off(mark))
    }

    fn take(&mut self, length: usize) -> Step<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or("it ends early")?;
        self.rest = rest;
        Ok(taken)
    }

    fn skip(&mut self, length: usize) -> Step<()> {
        self.take(length).map(drop)
    }

    fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or("it ends early")?;
        self.rest = rest;
        Ok(*taken)
    }

    fn length<const N: usize>(&mut self) -> Step<usize> {
        let bytes = self.array::<N>()?;
        usize::try_from(little_endian(&bytes, false)).map_err(|_| "it ends early".into())
    }

    fn line(&mut self) -> Step<&'a str> {
        std::str::from_utf8(self.byte_line()?).map_err(|_| "a name is not UTF-8".into())
    }

    fn byte_line(&mut self) -> Step<&'a [u8]> {
        let end = self
            .rest
            .iter()
            .position(|&b| b == b'\n')
            .ok_or("it ends early")?;
        let line = self.take(end)?;
        self.skip(1)?;
        Ok(line.strip_suffix(b"\r").unwrap_or(line))
    }

    fn slot(&mut self) -> Step<u32> {
        let line = self.line()?;
        line.parse().map_err(|_| {
            format!(
                "`{}` is no memo slot",
                line.escape_debug().take(40).collect::<String>()
            )
        })
    }
}

/// Text of bytes: UTF-8, or else a character a byte, which is what Python 2 had.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(bytes.iter().copied().map(char::from).collect()),
    }
}

/// A byte string as Python's `repr` writes it, quotes and escapes.
fn quoted(line: &[u8]) -> Step<Cow<'_, str>> {
    let inside = match line {
        [b'\'', inside @ .., b'\''] | [b'"', inside @ .., b'"'] => inside,
        _ => return Err("a string without its quotes".into()),
    };
    if !inside.contains(&b'\\') {
        return Ok(text(inside));
    }
    let mut bytes = Vec::with_capacity(inside.len());
    let mut rest = inside;
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let [letter, after @ ..] = rest else {
            return Err("a string ends in an escape".into());
        };
        rest = after;
        let byte = match letter {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'a' => 0x07,
            b'b' => 0x08,
            b'v' => 0x0b,
            b'f' => 0x0c,
            b'x' => match hex(rest, 2).and_then(|code| u8::try_from(code).ok()) {
                Some(byte) => {
                    rest = &rest[2..];
                    byte
                }
                None => return Err("a string with a broken \\x".into()),
            },
            b'\\' | b'\'' | b'"' => *letter,
            other => {
                bytes.push(b'\\');
                *other
            }
        };
        bytes.push(byte);
    }
    Ok(Cow::Owned(text(&bytes).into_owned()))
}

/// Python's `raw-unicode-escape`: a character a byte, others as `\u` and four or `\U` and eight hexadecimal digits.
fn escaped_unicode(line: &[u8]) -> Cow<'_, str> {
    if line.is_ascii() && !line.contains(&b'\\') {
        return text(line);
    }
    let mut units = Vec::with_capacity(line.len());
    let mut rest = line;
    while let [first, after @ ..] = rest {
        rest = after;
        let digits = match (first, after) {
            (b'\\', [b'u', ..]) => 4,
            (b'\\', [b'U', ..]) => 8,
            _ => 0,
        };
        let code = match digits {
            0 => None,
            _ => hex(&after[1..], digits),
        };
        match code {
            // Pairs of surrogates are what a narrow Python 2 writes.
            Some(code) if u16::try_from(code).is_ok() => units.push(code as u16),
            Some(code) => {
                let letter = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                units.extend_from_slice(letter.encode_utf16(&mut [0; 2]));
            }
            None => {
                units.push(u16::from(*first));
                continue;
            }
        }
        rest = &after[1 + digits..];
    }
    Cow::Owned(String::from_utf16_lossy(&units))
}

/// The number that the first `digits` bytes write in base 16.
fn hex(bytes: &[u8], digits: usize) -> Option<u32> {
    let digits = bytes.get(..digits)?;
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// A number of at most eight bytes.
fn little_endian(bytes: &[u8], signed: bool) -> i64 {
    let negative = signed && bytes.last().is_some_and(|&b| b >= 0x80);
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    i64::from_le_bytes(wide)
}

fn pairs(items: Vec<Id>) -> Step<Vec<(Id, Id)>> {
    if !items.len().is_multiple_of(2) {
        return Err("a key without a value".into());
    }
    Ok(items
        .chunks_exact(2)
        .map(|pair| (pair[0], pair[1]))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Value<'_>, PickleError> {
        Pickle::read(bytes).map(|pickle| pickle.root().clone())
    }

    #[test]
    fn protocol_0_strings_lose_their_quotes_and_escapes() {
        for (bytes, expected) in [
            (&b"S'it\\'s'\n."[..], "it's"),
            (b"S\"a 'dog'\"\n.", "a 'dog'"),
            (b"S'tab\\there\\\\'\n.", "tab\there\\"),
            (b"S'caf\\xc3\\xa9'\n.", "caf\u{e9}"),
            (b"S'caf\\xe9'\n.", "caf\u{e9}"),
            (b"Vcaf\xe9\n.", "caf\u{e9}"),
            (
                b"V\\u5f62 \\U0001f408 \\ud83d\\udc08\n.",
                "\u{5f62} \u{1f408} \u{1f408}",
            ),
            (b"V\\u12 \\x\n.", "\\u12 \\x"),
            (b"U\x04caf\xe9.", "caf\u{e9}"),
        ] {
            assert_eq!(read(bytes), Ok(Value::Text(expected.into())), "{bytes:?}");
        }
        for bytes in [
            &b"S'open\n."[..],
            b"Sbare\n.",
            b"S'\n.",
            b"S'\\xZZ'\n.",
            b"S'\\'\n.",
        ] {
            assert!(read(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn fractions_are_read_in_both_forms() {
        assert_eq!(read(b"F1.5\n."), Ok(Value::Float(1.5)));
        assert_eq!(read(b"G\x3f\xf8\0\0\0\0\0\0."), Ok(Value::Float(1.5)));
    }

    #[test]
    fn a_deep_pickle_overflows_nothing() {
        let deep = [&b"N"[..], &[0x85; 1_000_000], b"."].concat();
        assert!(matches!(read(&deep), Ok(Value::Tuple(items)) if items.len() == 1));
    }
}
