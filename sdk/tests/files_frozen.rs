//! Frozen weights: precision, and rows of tables.

use std::io::Write;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use twinspan_sdk::frozen::Frozen;
use twinspan_sdk::ops;

const CPU: &Device = &Device::Cpu;
const FLOATS: [DType; 4] = [DType::F64, DType::F32, DType::F16, DType::BF16];

/// Numbers `[rows, width]` of all magnitudes that halves know, some below and above them, some
/// between two of them, and some that are none.
fn numbers(rows: usize, width: usize) -> Tensor {
    let mut all: Vec<f64> = (0..rows * width)
        .map(|i| {
            let i = i as i32;
            f64::from(i * 7919 % 1000 - 500) * 2f64.powi(i % 60 - 40)
        })
        .collect();
    all[..8].copy_from_slice(&[
        0.,
        -0.,
        f64::INFINITY,
        f64::NAN,
        1. + 2f64.powi(-11),
        1. + 3. * 2f64.powi(-11),
        1. + 2f64.powi(-8),
        1. + 3. * 2f64.powi(-8),
    ]);
    Tensor::from_vec(all, (rows, width), CPU).unwrap()
}

/// The tensor as it lies in a file, 3 bytes behind its begin where `odd`.
fn mapped(tensor: &Tensor, odd: bool) -> Frozen {
    let dtype = tensor.dtype();
    let flat = tensor.flatten_all().unwrap();
    let mut bytes = if odd { vec![0; 3] } else { Vec::new() };
    let start = bytes.len();
    match dtype {
        DType::F64 => bytes.extend(
            flat.to_vec1()
                .unwrap()
                .into_iter()
                .flat_map(f64::to_le_bytes),
        ),
        DType::F32 => bytes.extend(
            flat.to_vec1()
                .unwrap()
                .into_iter()
                .flat_map(f32::to_le_bytes),
        ),
        DType::I64 => bytes.extend(
            flat.to_vec1()
                .unwrap()
                .into_iter()
                .flat_map(i64::to_le_bytes),
        ),
        DType::F16 => {
            let all = flat.to_vec1::<half::f16>().unwrap();
            bytes.extend(all.into_iter().flat_map(half::f16::to_le_bytes));
        }
        _ => {
            let all = flat.to_vec1::<half::bf16>().unwrap();
            bytes.extend(all.into_iter().flat_map(half::bf16::to_le_bytes));
        }
    }
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    // SAFETY: the file is anonymous: nobody else can shorten it.
    let map = Arc::new(unsafe { Mmap::map(&file).unwrap() });
    unsafe { Frozen::mapped(map, start, dtype, tensor.dims()) }.unwrap()
}

/// The values, in words that tell apart what is no number, and both zeros.
fn bits(tensor: &Tensor) -> Vec<u64> {
    let wide = tensor.to_dtype(DType::F64).unwrap();
    let all = wide.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let word = |x: f64| if x.is_nan() { u64::MAX } else { x.to_bits() };
    all.into_iter().map(word).collect()
}

/// A weight as candle would have it: rounded where the precision does not hold what is stored.
fn rounded(tensor: &Tensor, precision: DType) -> Tensor {
    match (tensor.dtype(), precision) {
        (DType::F16 | DType::BF16, DType::F32) | (_, DType::F64) => tensor.clone(),
        _ => tensor.to_dtype(precision).unwrap(),
    }
}

#[test]
fn values_are_rounded_as_candle_rounds_them() {
    // More than a worker converts at a time, and no whole number of times.
    let numbers = numbers(67, 93);
    for stored in FLOATS {
        let tensor = numbers.to_dtype(stored).unwrap();
        let sources = [
            Frozen::dense(&tensor),
            mapped(&tensor, false),
            mapped(&tensor, true),
        ];
        for precision in FLOATS {
            let expected = rounded(&tensor, precision).to_dtype(DType::F32).unwrap();
            for source in &sources {
                let weight = source.in_precision(DType::BF16).in_precision(precision);
                let same = format!("{source:?} in {precision:?}");
                assert_eq!((weight.dtype(), weight.shape()), (stored, source.shape()));
                let dense = weight.tensor(DType::F32, CPU).unwrap();
                assert_eq!(bits(&dense), bits(&expected), "{same}");
                let part = weight.rows(3..50).unwrap().reshape(&[47 * 93]).unwrap();
                let part = part.tensor(DType::F32, CPU).unwrap();
                assert_eq!(
                    bits(&part),
                    bits(&expected.narrow(0, 3, 47).unwrap()),
                    "{same}"
                );
                let ids = [66, 0, 5, 5];
                let rows = weight.gather(&ids, DType::F32, CPU).unwrap();
                assert_eq!(rows.dims(), [4, 93]);
                let select = Tensor::new(&ids, CPU).unwrap();
                let select = expected.index_select(&select, 0).unwrap();
                assert_eq!(bits(&rows), bits(&select), "{same}");
            }
        }
    }
}

#[test]
fn products_are_those_of_the_rounded_weight_to_the_bit() {
    let numbers = (Tensor::randn(0f64, 1., (70, 400), CPU)).unwrap();
    let x = Tensor::randn(0f32, 1., (19, 400), CPU).unwrap();
    for stored in FLOATS {
        let tensor = numbers.to_dtype(stored).unwrap();
        for precision in [DType::F32, DType::F16, DType::BF16] {
            let plain = rounded(&tensor, precision).to_dtype(DType::F32).unwrap();
            let expected = ops::linear_frozen(&x, &Frozen::dense(&plain), None).unwrap();
            for odd in [false, true] {
                let weight = mapped(&tensor, odd).in_precision(precision);
                let y = ops::linear_frozen(&x, &weight, None).unwrap();
                assert_eq!(bits(&y), bits(&expected), "{stored:?} in {precision:?}");
                weight.warm().unwrap();
            }
        }
    }
}

#[test]
fn whole_numbers_have_no_precision() {
    let ids = Tensor::new(&[1i64, 70_001, -3], CPU).unwrap();
    for weight in [Frozen::dense(&ids), mapped(&ids, false)] {
        let same = weight.in_precision(DType::F16).tensor(DType::I64, CPU);
        assert_eq!(same.unwrap().to_vec1::<i64>().unwrap(), [1, 70_001, -3]);
    }
}

#[test]
fn rows_that_are_not_there_are_named() {
    let table = Tensor::zeros((5, 2), DType::F32, CPU).unwrap();
    // Without the backtrace that candle may add.
    let message = |e: candle_core::Error| e.to_string().lines().next().map(str::to_string);
    for table in [Frozen::dense(&table), mapped(&table, false)] {
        let error = table.gather(&[4, 5], DType::F32, CPU).unwrap_err();
        let named = "row 5 of a tensor of shape [5, 2]";
        assert_eq!(message(error).as_deref(), Some(named));
        assert_eq!(table.gather(&[], DType::F32, CPU).unwrap().dims(), [0, 2]);
        assert!(table.reshape(&[3, 3]).is_err() && table.rows(4..6).is_err());
    }
    let scalar = Frozen::dense(&Tensor::new(1f32, CPU).unwrap());
    let error = scalar.gather(&[0], DType::F32, CPU).unwrap_err();
    let named = "rows of a tensor without dimensions";
    assert_eq!(message(error).as_deref(), Some(named));
}
