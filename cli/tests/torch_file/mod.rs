//! Files as `torch.save` writes them: a zip archive of stored entries, a pickle of protocol 2
//! whose tensors refer to storages beside it.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use candle_core::{DType, Tensor};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// What a training script pickles.
pub enum Value {
    Int(i32),
    Float(f64),
    Text(String),
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    /// `collections.OrderedDict`, as a state dict is.
    Ordered(Vec<(String, Value)>),
    /// `collections.Counter`, as a schedule's milestones are.
    Counter(Vec<(Value, Value)>),
    Tensor(Tensor),
}

/// A dict with names for keys.
pub fn dict<const N: usize>(items: [(&str, Value); N]) -> Value {
    let named = |(name, value): (&str, Value)| (Value::Text(name.into()), value);
    Value::Dict(items.into_iter().map(named).collect())
}

/// `torch.save(value, path)`.
pub fn save(path: &Path, value: &Value) {
    let mut pickler = Pickler::default();
    pickler.bytes.extend([0x80, 2]);
    pickler.value(value);
    pickler.bytes.push(b'.');

    let mut archive = ZipWriter::new(std::fs::File::create(path).unwrap());
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .with_alignment(64);
    let mut entry = |name: &str, bytes: &[u8]| {
        archive
            .start_file(format!("archive/{name}"), options)
            .unwrap();
        archive.write_all(bytes).unwrap();
    };
    entry("data.pkl", &pickler.bytes);
    entry("byteorder", b"little");
    for (number, storage) in pickler.storages.iter().enumerate() {
        entry(&format!("data/{number}"), storage);
    }
    entry("version", b"3\n");
    archive.finish().unwrap();
}

#[derive(Default)]
struct Pickler {
    bytes: Vec<u8>,
    memo: HashMap<String, u32>,
    storages: Vec<Vec<u8>>,
}

impl Pickler {
    fn value(&mut self, value: &Value) {
        match value {
            Value::Int(n) => self.int(*n),
            Value::Float(x) => {
                self.bytes.push(b'G');
                self.bytes.extend(x.to_be_bytes());
            }
            Value::Text(text) => self.text(text),
            Value::Tuple(items) => {
                self.bytes.push(b'(');
                items.iter().for_each(|item| self.value(item));
                self.bytes.push(b't');
            }
            Value::List(items) => {
                self.bytes.extend(b"](");
                items.iter().for_each(|item| self.value(item));
                self.bytes.push(b'e');
            }
            Value::Dict(items) => {
                self.bytes.push(b'}');
                self.items(items);
            }
            Value::Ordered(items) => {
                self.empty_ordered();
                self.bytes.push(b'(');
                for (name, value) in items {
                    self.text(name);
                    self.value(value);
                }
                self.bytes.push(b'u');
                // A state dict's versions, an attribute of the dict.
                self.bytes.push(b'}');
                self.text("_metadata");
                self.empty_ordered();
                self.bytes.extend(b"sb");
            }
            Value::Counter(items) => {
                self.class("collections", "Counter");
                self.bytes.push(b'}');
                self.items(items);
                self.bytes.extend([0x85, b'R']);
            }
            Value::Tensor(tensor) => self.tensor(tensor),
        }
    }

    fn items(&mut self, items: &[(Value, Value)]) {
        self.bytes.push(b'(');
        for (key, value) in items {
            self.value(key);
            self.value(value);
        }
        self.bytes.push(b'u');
    }

    fn tensor(&mut self, tensor: &Tensor) {
        let class = match tensor.dtype() {
            DType::I64 => "LongStorage",
            _ => "FloatStorage",
        };
        let key = self.storages.len().to_string();
        self.storages.push(raw(tensor));
        self.class("torch._utils", "_rebuild_tensor_v2");
        self.bytes.extend(b"((");
        self.text("storage");
        self.class("torch", class);
        self.text(&key);
        self.text("cuda:0");
        self.int(tensor.elem_count() as i32);
        self.bytes.extend(b"tQ");
        self.int(0);
        for sizes in [tensor.dims(), tensor.stride()] {
            self.bytes.push(b'(');
            sizes.iter().for_each(|size| self.int(*size as i32));
            self.bytes.push(b't');
        }
        self.bytes.push(0x89);
        self.empty_ordered();
        self.bytes.extend(b"tR");
    }

    fn empty_ordered(&mut self) {
        self.class("collections", "OrderedDict");
        self.bytes.extend(b")R");
    }

    fn int(&mut self, n: i32) {
        match u8::try_from(n) {
            Ok(n) => self.bytes.extend([b'K', n]),
            Err(_) => {
                self.bytes.push(b'J');
                self.bytes.extend(n.to_le_bytes());
            }
        }
    }

    fn text(&mut self, text: &str) {
        self.memoised(text, |bytes| {
            bytes.push(b'X');
            bytes.extend((text.len() as u32).to_le_bytes());
            bytes.extend(text.as_bytes());
        });
    }

    fn class(&mut self, module: &str, name: &str) {
        let line = format!("c{module}\n{name}\n");
        self.memoised(&line, |bytes| bytes.extend(line.as_bytes()));
    }

    /// As Python does: written once, then referred to.
    fn memoised(&mut self, what: &str, write: impl FnOnce(&mut Vec<u8>)) {
        let next = self.memo.len() as u32;
        match self.memo.get(what) {
            Some(known) => {
                self.bytes.push(b'j');
                self.bytes.extend(known.to_le_bytes());
            }
            None => {
                write(&mut self.bytes);
                self.bytes.push(b'r');
                self.bytes.extend(next.to_le_bytes());
                self.memo.insert(what.to_string(), next);
            }
        }
    }
}

fn raw(tensor: &Tensor) -> Vec<u8> {
    let flat = tensor.flatten_all().unwrap();
    match tensor.dtype() {
        DType::I64 => flat
            .to_vec1::<i64>()
            .unwrap()
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect(),
        _ => flat
            .to_vec1::<f32>()
            .unwrap()
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect(),
    }
}
