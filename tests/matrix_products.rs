//! Products of matrices after they have been given to another library: values and gradients in every layout.

use preftune::ops::matrix_products::use_the_faster_library;
use tch::{Kind, Tensor};

use crate::support::in_own_process;

/// Of `[m, k]`, `[n, k]`, `[n]` and `[m, k]` with gaps between its rows.
type Calculation = Box<dyn Fn(&[Tensor]) -> Tensor>;

/// In a process of its own: the kernels are those of the whole process, and other tests' threads are at work in this one.
#[test]
fn products_of_every_layout_stay_right_in_another_library() {
    let said = in_own_process("matrix_products::products_and_their_gradients");
    // Replacing kernels is announced by libtorch; a user is not to see that.
    assert!(!said.contains("overrid"), "{said}");
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
fn products_and_their_gradients() {
    use_the_faster_library().unwrap();
    tch::manual_seed(5);
    // Below and above the size from which on products go to the other library, one side short, and rows of no round number.
    for [m, k, n] in [
        [30, 20, 40],
        [256, 320, 512],
        [515, 333, 257],
        [2048, 8, 512],
        [2048, 64, 32],
        [1, 1024, 512],
    ] {
        let draw = |shape: [i64; 2]| Tensor::randn(shape, (Kind::Float, tch::Device::Cpu));
        let (x, w, bias) = (draw([m, k]), draw([n, k]), draw([n, 1]).view([n]));
        let steps = draw([2 * m, k]).slice(0, 0, 2 * m, 2);
        let weights = draw([m * n, 1]).view([-1]);
        let calculations: [(&str, Calculation); 6] = [
            ("linear", Box::new(|t| t[0].linear(&t[1], Some(&t[2])))),
            (
                "without bias",
                Box::new(|t| t[0].linear::<&Tensor>(&t[1], None)),
            ),
            ("transposed", Box::new(|t| t[1].matmul(&t[0].tr()))),
            (
                "of batches",
                Box::new(move |t| t[0].view([1, -1, k]).linear(&t[1], Some(&t[2]))),
            ),
            ("scaled", Box::new(|t| t[2].addmm(&t[0], &t[1].tr()) * 0.5)),
            (
                "every second row",
                Box::new(|t| t[3].linear(&t[1], Some(&t[2]))),
            ),
        ];
        for (name, calculate) in &calculations {
            let result = |kind: Kind| {
                let leaf =
                    |tensor: &Tensor| tensor.to_kind(kind).detach().copy().set_requires_grad(true);
                let leaves = [leaf(&x), leaf(&w), leaf(&bias), steps.to_kind(kind)];
                let value = calculate(&leaves);
                let size = value.numel() as i64;
                let by = weights.narrow(0, 0, size).view_as(&value);
                (&value * by.to_kind(kind)).sum(kind).backward();
                let mut all = vec![value.detach()];
                all.extend(leaves[..3].iter().map(Tensor::grad).filter(Tensor::defined));
                all
            };
            let (single, double) = (result(Kind::Float), result(Kind::Double));
            assert_eq!(single.len(), double.len());
            for (place, (single, double)) in single.iter().zip(&double).enumerate() {
                let worst = (single - double).abs().max().double_value(&[]);
                let largest = double.abs().max().double_value(&[]);
                assert!(
                    worst <= 1e-5 * largest,
                    "{name} {m} {k} {n}, {place}: {worst:e} of {largest:e}"
                );
            }
        }
    }
}
