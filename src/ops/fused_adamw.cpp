// What tch does not bind of libtorch's optimisers: kernels that take many tensors at once, on CPUs and GPUs.
// Called by `fused_adamw.rs` alone.

#include <ATen/core/Tensor.h>
#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/stack.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <vector>

namespace {

// The kernel walks the memory of the four tensors side by side. Strides of dimensions of size 1 mean nothing.
bool same_layout(const at::Tensor& parameter, const at::Tensor& other) {
    for (int64_t i = 0; i < parameter.dim(); ++i) {
        if (parameter.size(i) != 1 && parameter.stride(i) != other.stride(i)) {
            return false;
        }
    }
    return true;
}

void require_one_layout(const at::Tensor& parameter, const at::Tensor& moment) {
    if (parameter.sizes() != moment.sizes() || parameter.scalar_type() != moment.scalar_type() ||
        !same_layout(parameter, moment)) {
        throw std::runtime_error("a tensor and its moments differ in shape, layout or type");
    }
}

}  // namespace

// Updates `parameters` that have a gradient, and both moments, and drops the gradients: the next backward pass then hands
// over new ones instead of adding to zeros. `step` is the number of updates with this one, `divisor` divides gradients.
// Returns null, or why it failed (to be given back to `preftune_release`).
extern "C" char* preftune_fused_adamw(
    at::Tensor* const* parameters, at::Tensor* const* averages, at::Tensor* const* square_averages, size_t count,
    const at::Tensor* step, const at::Tensor* divisor, double learning_rate, double beta_1, double beta_2,
    double weight_decay, double epsilon) {
    try {
        std::vector<at::Tensor> tensors, gradients, first, second;
        for (size_t i = 0; i < count; ++i) {
            at::Tensor gradient = parameters[i]->grad();
            if (!gradient.defined()) {
                continue;
            }
            if (!same_layout(*parameters[i], gradient)) {
                gradient = at::empty_like(*parameters[i]).copy_(gradient);
            }
            require_one_layout(*parameters[i], *averages[i]);
            require_one_layout(*parameters[i], *square_averages[i]);
            tensors.push_back(*parameters[i]);
            gradients.push_back(gradient);
            first.push_back(*averages[i]);
            second.push_back(*square_averages[i]);
        }
        if (!tensors.empty()) {
            const std::vector<at::Tensor> steps(tensors.size(), *step);
            at::_fused_adamw_(
                tensors, gradients, first, second, {}, steps, learning_rate, beta_1, beta_2, weight_decay, epsilon,
                /*amsgrad=*/false, /*maximize=*/false, *divisor);
        }
        for (size_t i = 0; i < count; ++i) {
            parameters[i]->mutable_grad().reset();
        }
        return nullptr;
    } catch (const std::exception& error) {
        return strdup(error.what());
    }
}

// Norms of the tensors that are not empty, `[n]`, of order 2 or infinity; undefined where all are empty.
extern "C" char* preftune_norms(at::Tensor* const* tensors, size_t count, double order, at::Tensor** norms) {
    try {
        std::vector<at::Tensor> filled;
        for (size_t i = 0; i < count; ++i) {
            if (tensors[i]->numel() != 0) {
                filled.push_back(*tensors[i]);
            }
        }
        *norms = new at::Tensor(filled.empty() ? at::Tensor() : at::stack(at::_foreach_norm(filled, order)));
        return nullptr;
    } catch (const std::exception& error) {
        return strdup(error.what());
    }
}

// Moves every one of `tensors` by the share `weight` towards its target.
extern "C" char* preftune_lerp(at::Tensor* const* tensors, at::Tensor* const* targets, size_t count, double weight) {
    try {
        std::vector<at::Tensor> moved, towards;
        for (size_t i = 0; i < count; ++i) {
            moved.push_back(*tensors[i]);
            towards.push_back(*targets[i]);
        }
        if (!moved.empty()) {
            at::_foreach_lerp_(moved, towards, weight);
        }
        return nullptr;
    } catch (const std::exception& error) {
        return strdup(error.what());
    }
}

extern "C" void preftune_release(char* message) { std::free(message); }
