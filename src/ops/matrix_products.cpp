// libtorch hands matrix products in f32 to MKL, which on processors of other makers than its own takes a path of half the
// speed or less. oneDNN, which libtorch brings along for its convolutions, asks what the processor can do.
// Called by `matrix_products.rs` alone.

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/addmm_cpu_dispatch.h>
#include <ATen/ops/mm_cpu_dispatch.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <optional>

namespace {

// Multiplications from which on oneDNN's preparation pays, and the shortest side: products of a vector are bound by memory.
// A left side that lies by columns, as in gradients of weights, is copied first and pays later; where it is long and the
// result small, oneDNN does not share the work among threads, and MKL does (benches/results/matrix_products.md).
constexpr int64_t WORTHWHILE = int64_t{1} << 22;
constexpr int64_t WORTHWHILE_BY_COLUMNS = int64_t{1} << 24;
constexpr int64_t RESULT_TO_LENGTH = 64;
constexpr int64_t SHORTEST = 8;

using Linear = at::Tensor(
    const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, c10::string_view,
    c10::List<std::optional<at::Scalar>>, std::optional<c10::string_view>);

std::optional<c10::TypedOperatorHandle<Linear>> onednn_linear;

bool is_plain(const at::Tensor& tensor) {
    return tensor.scalar_type() == at::kFloat && tensor.layout() == at::kStrided && tensor.dim() == 2 &&
           (tensor.stride(0) == 1 || tensor.stride(1) == 1);
}

bool worthwhile(const at::Tensor& left, const at::Tensor& right) {
    if (!is_plain(left) || !is_plain(right) || left.size(1) != right.size(0)) {
        return false;
    }
    const int64_t rows = left.size(0), inner = left.size(1), columns = right.size(1);
    const int64_t multiplications = rows * inner * columns;
    if (std::min({rows, inner, columns}) < SHORTEST) {
        return false;
    }
    if (left.stride(1) == 1) {
        return multiplications >= WORTHWHILE;
    }
    return multiplications >= WORTHWHILE_BY_COLUMNS && rows * columns >= inner * RESULT_TO_LENGTH;
}

// left [m, k] right [k, n] + bias [n]
at::Tensor product(const at::Tensor& left, const at::Tensor& right, const std::optional<at::Tensor>& bias) {
    return onednn_linear->call(left, right.t(), bias, "none", c10::List<std::optional<at::Scalar>>(), std::nullopt);
}

at::Tensor mm(const at::Tensor& left, const at::Tensor& right) {
    return worthwhile(left, right) ? product(left, right, std::nullopt) : at::cpu::mm(left, right);
}

bool is_one(const at::Scalar& scale) { return scale.toDouble() == 1.0; }

at::Tensor addmm(
    const at::Tensor& bias, const at::Tensor& left, const at::Tensor& right, const at::Scalar& beta,
    const at::Scalar& alpha) {
    const bool is_bias = bias.dim() == 1 && bias.is_contiguous() && bias.scalar_type() == at::kFloat &&
                         right.dim() == 2 && bias.size(0) == right.size(1);
    if (is_bias && is_one(beta) && is_one(alpha) && worthwhile(left, right)) {
        return product(left, right, bias);
    }
    return at::cpu::addmm(bias, left, right, beta, alpha);
}

// Replacing a kernel is what is meant to happen.
struct Silent : c10::WarningHandler {
    void process(const c10::Warning&) override {}
};

bool is_intels() {
#if defined(__GNUC__) && defined(__x86_64__)
    __builtin_cpu_init();
    return __builtin_cpu_is("intel");
#else
    // MKL is x86's; elsewhere libtorch has another library, and its own reasons.
    return true;
#endif
}

}  // namespace

// Lets large products in f32 go to oneDNN from now on, where that is faster. Returns null, or why it failed (to be given back
// to `preftune_release`).
extern "C" char* preftune_use_onednn_for_products() {
    try {
        if (is_intels() || onednn_linear) {
            return nullptr;
        }
        const auto schema = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
        if (!schema) {
            return nullptr;
        }
        onednn_linear = schema->typed<Linear>();
        Silent silent;
        c10::WarningUtils::WarningHandlerGuard guard(&silent);
        static torch::Library library(
            torch::Library::IMPL, "aten", std::make_optional(c10::DispatchKey::CPU), __FILE__, __LINE__);
        library.impl("mm", TORCH_FN(mm));
        library.impl("addmm", TORCH_FN(addmm));
        return nullptr;
    } catch (const std::exception& error) {
        return strdup(error.what());
    }
}
