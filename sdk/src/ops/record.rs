//! How an operation enters candle's graph.
//!
//! Owns the bridge between kernels on slices and `candle_core::Tensor`: reading a tensor,
//! recording a finished result with its backward, and replaying a composition on devices
//! without a kernel. Does no arithmetic.
//!
//! Only tracked inputs are handed to candle, so a frozen tensor cannot get a gradient: candle's
//! own operations compute one for every argument and keep it for the whole backward pass.

use std::ops::Deref;
use std::sync::{Mutex, PoisonError};

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Storage,
    StorageRef, Tensor, Var, WithDType, bail,
};

/// What a backward is given: the result, its gradient (contiguous), and which inputs ask for one.
pub(super) struct Backward<'a, const N: usize> {
    pub output: &'a Tensor,
    pub grad: &'a Tensor,
    pub needs: [bool; N],
}

/// The gradients of the inputs, in their order; `None` for those that did not ask.
pub(super) type Gradients<const N: usize> = Result<[Option<Tensor>; N]>;

type Answer = Box<dyn Fn(&Tensor, &Tensor) -> Result<Vec<Tensor>> + Send + Sync>;

/// A result that was computed already, waiting for candle to ask for it.
struct Finished {
    name: &'static str,
    output: Mutex<Option<(Storage, Shape)>>,
    backward: Answer,
}

impl Finished {
    fn hand_over(&self) -> Result<(Storage, Shape)> {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        match output.take() {
            Some(output) => Ok(output),
            None => bail!("{}: the result was taken twice", self.name),
        }
    }

    fn cpu(&self) -> Result<(CpuStorage, Shape)> {
        match self.hand_over()? {
            (Storage::Cpu(storage), shape) => Ok((storage, shape)),
            _ => bail!("{}: the result is not on the CPU", self.name),
        }
    }

    fn cuda(&self) -> Result<(CudaStorage, Shape)> {
        match self.hand_over()? {
            (Storage::Cuda(storage), shape) => Ok((storage, shape)),
            _ => bail!("{}: the result is not on the GPU", self.name),
        }
    }

    fn gradients<const K: usize>(&self, output: &Tensor, grad: &Tensor) -> Result<[Tensor; K]> {
        match (self.backward)(output, &grad.detach().contiguous()?)?.try_into() {
            Ok(gradients) => Ok(gradients),
            Err(other) => bail!("{}: {} gradients for {K} inputs", self.name, other.len()),
        }
    }
}

impl CustomOp1 for Finished {
    fn name(&self) -> &'static str {
        self.name
    }
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }
    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }
    fn bwd(&self, _: &Tensor, output: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let [a] = self.gradients(output, grad)?;
        Ok(Some(a))
    }
}

impl CustomOp2 for Finished {
    fn name(&self) -> &'static str {
        self.name
    }
    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }
    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }
    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [a, b] = self.gradients(output, grad)?;
        Ok((Some(a), Some(b)))
    }
}

impl CustomOp3 for Finished {
    fn name(&self) -> &'static str {
        self.name
    }
    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }
    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }
    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [a, b, c] = self.gradients(output, grad)?;
        Ok((Some(a), Some(b), Some(c)))
    }
}

fn tracked(input: Option<&Tensor>) -> bool {
    input.is_some_and(Tensor::track_op)
}

fn attach<const N: usize>(
    name: &'static str,
    inputs: [Option<&Tensor>; N],
    storage: Storage,
    shape: Shape,
    backward: impl Fn(Backward<N>) -> Gradients<N> + Send + Sync + 'static,
) -> Result<Tensor> {
    let needs = inputs.map(tracked);
    let answer = move |output: &Tensor, grad: &Tensor| {
        let gradients = backward(Backward {
            output,
            grad,
            needs,
        })?;
        let mut asked = Vec::with_capacity(N);
        for (gradient, needed) in gradients.into_iter().zip(needs) {
            match gradient {
                // candle panics when a tracked input that is not a leaf gets nothing.
                None if needed => bail!("{name}: the backward left out a gradient"),
                Some(gradient) if needed => asked.push(gradient),
                _ => (),
            }
        }
        Ok(asked)
    };
    let op = Finished {
        name,
        output: Mutex::new(Some((storage, shape))),
        backward: Box::new(answer),
    };
    let inputs: Vec<&Tensor> = inputs
        .into_iter()
        .flatten()
        .filter(|t| t.track_op())
        .collect();
    match inputs[..] {
        [a] => a.apply_op1(op),
        [a, b] => a.apply_op2(b, op),
        [a, b, c] => a.apply_op3(b, c, op),
        _ => bail!("{name}: {} tracked inputs", inputs.len()),
    }
}

/// Makes a CPU tensor of `data` and, where an input is tracked, records how to differentiate it.
pub(super) fn record<T: WithDType, const N: usize>(
    name: &'static str,
    inputs: [Option<&Tensor>; N],
    data: Vec<T>,
    shape: impl Into<Shape>,
    backward: impl Fn(Backward<N>) -> Gradients<N> + Send + Sync + 'static,
) -> Result<Tensor> {
    let shape = shape.into();
    if !inputs.into_iter().any(tracked) {
        return Tensor::from_vec(data, shape, &candle_core::Device::Cpu);
    }
    let storage = Storage::Cpu(T::to_cpu_storage_owned(data));
    attach(name, inputs, storage, shape, backward)
}

/// Runs `compose` outside the graph and records that its backward runs it again.
///
/// The second run costs a forward pass; in return no constant and no frozen input of the
/// composition gets a gradient.
pub(super) fn replay<const N: usize>(
    name: &'static str,
    inputs: [&Tensor; N],
    compose: impl Fn([&Tensor; N]) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    let mut constants = inputs.map(Tensor::detach);
    for constant in &mut constants {
        // On CUDA, candle's matrix products, selections and convolutions take no strides.
        *constant = constant.contiguous()?;
    }
    let output = compose(constants.each_ref())?.detach().force_contiguous()?;
    if !inputs.iter().any(|t| t.track_op()) {
        return Ok(output);
    }
    let (storage, layout) = output.storage_and_layout();
    let (storage, shape) = (storage.try_clone(layout)?, layout.shape().clone());
    attach(name, inputs.map(Some), storage, shape, move |b| {
        let mut leaves = Vec::with_capacity(N);
        for (constant, needed) in constants.iter().zip(b.needs) {
            leaves.push(match needed {
                true => Some(Var::from_tensor(constant)?),
                false => None,
            });
        }
        let arguments = std::array::from_fn(|i| match &leaves[i] {
            Some(leaf) => leaf.as_tensor(),
            None => &constants[i],
        });
        let mut found = seed(&compose(arguments)?, b.grad)?.backward()?;
        let mut gradients = [const { None }; N];
        for (gradient, leaf) in gradients.iter_mut().zip(&leaves) {
            if let Some(leaf) = leaf {
                *gradient = match found.remove(leaf) {
                    Some(found) => Some(found),
                    None => Some(leaf.zeros_like()?),
                };
            }
        }
        Ok(gradients)
    })
}

/// A scalar whose backward hands `grad` to `y`.
fn seed(y: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let grad = grad.clone();
    let one = Tensor::ones((), y.dtype(), y.device())?;
    let (storage, layout) = one.storage_and_layout();
    let (storage, shape) = (storage.try_clone(layout)?, layout.shape().clone());
    attach("seed", [Some(y)], storage, shape, move |_| {
        Ok([Some(grad.clone())])
    })
}

/// `t` outside the graph, in row-major order.
pub(super) fn dense(t: &Tensor) -> Result<Tensor> {
    t.detach().contiguous()
}

/// The elements of a contiguous CPU tensor; holds its lock for as long as it lives.
pub(super) struct View<'a, T> {
    storage: StorageRef<'a>,
    start: usize,
    end: usize,
    element: std::marker::PhantomData<T>,
}

impl<T: WithDType> Deref for View<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &*self.storage {
            Storage::Cpu(storage) => match T::cpu_storage_as_slice(storage) {
                Ok(slice) => &slice[self.start..self.end],
                Err(_) => &[],
            },
            _ => &[],
        }
    }
}

/// Reads a contiguous CPU tensor of element type `T`.
pub(super) fn view<T: WithDType>(t: &Tensor) -> Result<View<'_, T>> {
    let (storage, layout) = t.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("a kernel got a strided tensor of shape {:?}", t.shape());
    };
    match &*storage {
        Storage::Cpu(inner) => drop(T::cpu_storage_as_slice(inner)?),
        _ => bail!("a kernel for the CPU got a tensor on {:?}", t.device()),
    }
    Ok(View {
        storage,
        start,
        end,
        element: std::marker::PhantomData,
    })
}

/// A CPU tensor of the shape of `like`.
pub(super) fn shaped<T: WithDType>(data: Vec<T>, like: &Tensor) -> Result<Option<Tensor>> {
    Tensor::from_vec(data, like.shape(), like.device()).map(Some)
}
