//! Where a token is, as constants: sines for the decoder, coordinates for the
//! neck. Made once per head; nothing here is trained.

use candle_core::{Device, Result, Tensor};
use twinspan_sdk::parameter::Params;

/// Sines of a line `[length, width]`: `sin(p / 10000^(2i/width))` in column 2i
/// and its cosine in column 2i+1, p from 0 (Vaswani et al. 2017).
pub(super) fn of_line(length: usize, width: usize, params: &Params) -> Result<Tensor> {
    let rows = (0..length).flat_map(|p| sines(p, width));
    placed(rows.collect(), &[length, width], params)
}

/// Sines of a grid `[rows·columns, width]`, row by row: the first half of the
/// columns says how far right a pixel is, the second how far down.
pub(super) fn of_grid(grid: (usize, usize), width: usize, params: &Params) -> Result<Tensor> {
    let (rows, columns) = grid;
    let mut values = Vec::with_capacity(rows * columns * width);
    for y in 0..rows {
        for x in 0..columns {
            values.extend(sines(x, width / 2));
            values.extend(sines(y, width - width / 2));
        }
    }
    placed(values, &[rows * columns, width], params)
}

/// The two channels `[1, 2, rows, columns]` that CoordConv appends (Liu et al.
/// 2018): x, then y, each from -1 to 1 with both ends.
pub(super) fn coordinates(grid: (usize, usize), params: &Params) -> Result<Tensor> {
    let (rows, columns) = grid;
    let at = |i: usize, n: usize| -1.0 + 2.0 * i as f64 / (n - 1).max(1) as f64;
    let x = (0..rows).flat_map(|_| (0..columns).map(|j| at(j, columns)));
    let y = (0..rows).flat_map(|i| (0..columns).map(move |_| at(i, rows)));
    placed(x.chain(y).collect(), &[1, 2, rows, columns], params)
}

fn sines(position: usize, width: usize) -> impl Iterator<Item = f64> {
    (0..width).map(move |column| {
        let even = (column / 2 * 2) as f64;
        let angle = position as f64 / 10_000f64.powf(even / width as f64);
        match column % 2 {
            0 => angle.sin(),
            _ => angle.cos(),
        }
    })
}

fn placed(values: Vec<f64>, shape: &[usize], params: &Params) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &Device::Cpu)?
        .to_dtype(params.dtype())?
        .to_device(params.device())
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use twinspan_sdk::parameter::Overlay;

    use super::*;

    fn table(make: impl Fn(&Params) -> Result<Tensor>) -> Vec<Vec<f64>> {
        let mut overlay = Overlay::default();
        let params = Params::new(&mut overlay, "head", 0, false, DType::F64, &Device::Cpu);
        let table = make(&params).unwrap();
        let rows = table.dims()[table.rank() - 2..].to_vec();
        let table = table.reshape(((), rows[1])).unwrap();
        table.to_vec2().unwrap()
    }

    fn close(a: &[f64], b: &[f64]) {
        assert_eq!(a.len(), b.len());
        let off = a.iter().zip(b).map(|(a, b)| (a - b).abs());
        assert!(off.fold(0.0, f64::max) < 1e-12, "{a:?} is not {b:?}");
    }

    #[test]
    fn a_line_has_sines_and_cosines_in_turn() {
        let line = table(|p| of_line(4, 4, p));
        close(&line[0], &[0.0, 1.0, 0.0, 1.0]);
        let (fast, slow) = (3f64, 0.03f64);
        close(&line[3], &[fast.sin(), fast.cos(), slow.sin(), slow.cos()]);
    }

    #[test]
    fn a_grid_has_x_and_then_y() {
        let grid = table(|p| of_grid((2, 3), 8, p));
        assert_eq!(grid.len(), 6);
        let line = table(|p| of_line(3, 4, p));
        for y in 0..2 {
            for x in 0..3 {
                close(&grid[y * 3 + x][..4], &line[x]);
                close(&grid[y * 3 + x][4..], &line[y]);
            }
        }
    }

    #[test]
    fn coordinates_go_from_end_to_end() {
        let both = table(|p| coordinates((2, 3), p));
        close(&both[0], &[-1.0, 0.0, 1.0]);
        close(&both[1], &[-1.0, 0.0, 1.0]);
        close(&both[2], &[-1.0, -1.0, -1.0]);
        close(&both[3], &[1.0, 1.0, 1.0]);
        close(&table(|p| coordinates((1, 1), p))[0], &[-1.0]);
    }
}
