//! Which calls in a pickle mean a tensor.
//!
//! Owns the arguments of torch's `_rebuild_` functions and the names of its storage classes. Where
//! a storage lies is `storages.rs`'s.

use candle_core::DType;

use crate::checkpoint::HIGHEST_RANK;
use crate::pickle::{Id, Pickle, Value};

/// A tensor as the pickle describes it.
pub(super) enum Saved<'a> {
    Strided(Strided<'a>),
    /// A tensor of a kind that is not read, with the reason.
    Skipped(&'a str),
    Damaged(&'static str),
}

pub(super) struct Strided<'a> {
    /// The storage's key.
    pub storage: &'a str,
    pub dtype: DType,
    /// In elements.
    pub offset: usize,
    pub shape: Vec<usize>,
    /// In elements, one per dimension.
    pub strides: Vec<usize>,
}

/// The tensor that the value at `id` rebuilds; `None` if it is something else.
pub(super) fn tensor<'a>(pickle: &'a Pickle<'_>, mut id: Id) -> Option<Saved<'a>> {
    // A parameter or a subclass wraps the tensor once; more would be made up.
    for _ in 0..4 {
        let &Value::Call {
            callable,
            args: arguments,
        } = pickle.get(id)
        else {
            return None;
        };
        let (Value::Class { module, name }, Value::Tuple(args)) =
            (pickle.get(callable), pickle.get(arguments))
        else {
            return None;
        };
        match (*module, *name, &args[..]) {
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state", [of, ..]) => {
                id = *of;
            }
            ("torch._tensor", "_rebuild_from_type_v2", [function, _, of, ..]) => {
                return rebuilt(pickle, *function, *of);
            }
            _ => return rebuilt(pickle, callable, arguments),
        }
    }
    None
}

/// What `function(*args)` rebuilds.
fn rebuilt<'a>(pickle: &'a Pickle<'_>, function: Id, args: Id) -> Option<Saved<'a>> {
    let (Value::Class { module, name }, Value::Tuple(args)) =
        (pickle.get(function), pickle.get(args))
    else {
        return None;
    };
    match (*module, *name) {
        ("torch._utils", "_rebuild_tensor_v2") => Some(strided(pickle, args).unwrap_or(
            Saved::Damaged("is described in a way that torch.save never does"),
        )),
        ("torch._utils", name) if name.starts_with("_rebuild_") => Some(Saved::Skipped(name)),
        _ => None,
    }
}

/// The arguments of `_rebuild_tensor_v2`: storage, offset, size, stride, and what is not needed.
fn strided<'a>(pickle: &'a Pickle<'_>, args: &[Id]) -> Option<Saved<'a>> {
    let &[storage, offset, size, stride, ..] = args else {
        return None;
    };
    let Value::Persistent(storage) = pickle.get(storage) else {
        return None;
    };
    let Value::Tuple(storage) = pickle.get(*storage) else {
        return None;
    };
    // ("storage", class, key, device, elements), and before PyTorch 0.4 what part of another
    // storage it is.
    let &[_, class, key, ref rest @ ..] = &storage[..] else {
        return None;
    };
    let part = rest.get(2).map(|&part| pickle.get(part));
    if matches!(part, Some(Value::Tuple(_))) {
        return None;
    }
    let (Value::Class { name: class, .. }, Value::Text(key)) = (pickle.get(class), pickle.get(key))
    else {
        return None;
    };
    let dtype = match *class {
        "FloatStorage" => DType::F32,
        "HalfStorage" => DType::F16,
        "BFloat16Storage" => DType::BF16,
        "DoubleStorage" => DType::F64,
        "LongStorage" => DType::I64,
        "IntStorage" => DType::I32,
        "ShortStorage" => DType::I16,
        "ByteStorage" => DType::U8,
        other => return Some(Saved::Skipped(other)),
    };
    let (shape, strides) = (sizes(pickle, size)?, sizes(pickle, stride)?);
    (shape.len() == strides.len()).then_some(())?;
    Some(Saved::Strided(Strided {
        storage: key,
        dtype,
        offset: size_of(pickle, offset)?,
        shape,
        strides,
    }))
}

/// A tuple of sizes, plain or as `torch.Size`.
fn sizes(pickle: &Pickle<'_>, id: Id) -> Option<Vec<usize>> {
    let items = match pickle.get(id) {
        Value::Tuple(items) | Value::List(items) => items,
        Value::Call { args, .. } => match pickle.get(*args) {
            Value::Tuple(args) => match pickle.get(*args.first()?) {
                Value::Tuple(items) | Value::List(items) => items,
                _ => return None,
            },
            _ => return None,
        },
        _ => return None,
    };
    // Many tensors can share a tuple: without a limit, their copies could take memory quadratic in
    // the file's size.
    (items.len() <= HIGHEST_RANK).then_some(())?;
    items.iter().map(|&id| size_of(pickle, id)).collect()
}

fn size_of(pickle: &Pickle<'_>, id: Id) -> Option<usize> {
    match pickle.get(id) {
        Value::Int(n) => usize::try_from(*n).ok(),
        _ => None,
    }
}
