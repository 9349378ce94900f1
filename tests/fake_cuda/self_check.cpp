// The fake device by itself: values and gradients against the CPU, refusals, counts. `self_check LIBRARY` exits with 0 when all is
// as it should be.
#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <dlfcn.h>

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <string>

static int failures = 0;
static void expect(bool good, const std::string& what) {
    std::printf("%s %s\n", good ? "ok  " : "FAIL", what.c_str());
    failures += !good;
}

// Runs `make` on both devices from the same numbers and compares results and gradients.
static void same(const std::string& what, std::vector<at::Tensor> inputs, std::function<at::Tensor(std::vector<at::Tensor>&)> make, double tolerance = 1e-5) {
    try {
        std::vector<at::Tensor> here, there;
        for (auto& input : inputs) {
            here.push_back(input.detach().clone());
            there.push_back(input.detach().to(at::kCUDA));
            if (at::isFloatingType(input.scalar_type())) {
                here.back().requires_grad_(true);
                there.back().requires_grad_(true);
            }
        }
        const at::Tensor a = make(here), b = make(there);
        bool good = b.is_cuda() && at::allclose(a.detach().to(at::kFloat), b.detach().cpu().to(at::kFloat), tolerance, tolerance);
        if (a.requires_grad()) {
            (a * a).sum().backward();
            (b * b).sum().backward();
            for (size_t i = 0; i < here.size(); ++i) {
                if (here[i].grad().defined() != there[i].grad().defined()) {
                    good = false;
                } else if (here[i].grad().defined()) {
                    good = good && there[i].grad().is_cuda() &&
                           at::allclose(here[i].grad().to(at::kFloat), there[i].grad().cpu().to(at::kFloat), 10 * tolerance, 10 * tolerance);
                }
            }
        }
        expect(good, what);
    } catch (const std::exception& error) {
        expect(false, what + ": " + std::string(error.what()).substr(0, 600));
    }
}

static void refused(const std::string& what, std::function<void()> run) {
    try {
        run();
        expect(false, what + ": not refused");
    } catch (const std::exception& error) {
        expect(std::string(error.what()).find("same device") != std::string::npos, what + ": " + std::string(error.what()).substr(0, 120));
    }
}

int main(int argc, char** argv) {
    using namespace at;
    if (argc > 1 && !dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL)) {
        std::printf("%s\n", dlerror());
        return 1;
    }
    expect(globalContext().hasCUDA() && at::detail::getCUDAHooks().deviceCount() == 1, "one GPU");
    manual_seed(7);
    auto f = [](IntArrayRef size) { return randn(size); };
    same("add with a CPU scalar", {f({3, 4})}, [](auto& x) { return x[0] * scalar_tensor(2.0) + 1; });
    same("linear, gelu, layer norm", {f({2, 5, 8}), f({16, 8}), f({16})}, [](auto& x) { return layer_norm(gelu(linear(x[0], x[1], x[2])), {16}); });
    same("rms norm", {f({2, 5, 8}), f({8})}, [](auto& x) { return rms_norm(x[0], {8}, x[1], 1e-6); });
    same("matmul of batches", {f({2, 3, 4, 5}), f({2, 3, 5, 6})}, [](auto& x) { return matmul(x[0], x[1]).softmax(-1); });
    same("convolution, group norm, silu", {f({2, 4, 8, 8}), f({8, 4, 3, 3}), f({8})}, [](auto& x) { return silu(group_norm(conv2d(x[0], x[1], x[2], 1, 1), 4)); }, 1e-4);
    same("convolution, stride 2, no bias", {f({2, 4, 8, 8}), f({8, 4, 3, 3})}, [](auto& x) { return conv2d(x[0], x[1], {}, 2, 1); }, 1e-4);
    same("nearest upsampling", {f({1, 2, 4, 4})}, [](auto& x) { return upsample_nearest2d(x[0], {8, 8}); });
    same("bicubic", {f({1, 2, 8, 8})}, [](auto& x) { return upsample_bicubic2d(x[0], {4, 4}, false); });
    same("attention", {f({2, 2, 5, 8}), f({2, 2, 7, 8}), f({2, 2, 7, 8})}, [](auto& x) { return scaled_dot_product_attention(x[0], x[1], x[2]); });
    same("attention, causal", {f({2, 2, 5, 8}), f({2, 2, 5, 8}), f({2, 2, 5, 8})}, [](auto& x) { return scaled_dot_product_attention(x[0], x[1], x[2], {}, 0, true); });
    same("attention, mask", {f({2, 2, 5, 8}), f({2, 2, 5, 8}), f({2, 2, 5, 8})}, [](auto& x) {
        return scaled_dot_product_attention(x[0], x[1], x[2], ones({5, 5}, TensorOptions().dtype(kBool).device(x[0].device())).tril()); });
    same("attention, bf16", {f({2, 2, 5, 8}).to(kBFloat16), f({2, 2, 5, 8}).to(kBFloat16), f({2, 2, 5, 8}).to(kBFloat16)},
        [](auto& x) { return scaled_dot_product_attention(x[0], x[1], x[2]); }, 2e-2);
    same("attention, grouped, bf16", {f({2, 4, 5, 8}).to(kBFloat16), f({2, 2, 5, 8}).to(kBFloat16), f({2, 2, 5, 8}).to(kBFloat16)},
        [](auto& x) { return scaled_dot_product_attention(x[0], x[1], x[2], {}, 0, true, {}, true); }, 2e-2);
    same("views in place", {f({4, 6})}, [](auto& x) { auto y = x[0] * 1; y.slice(1, 0, 3).mul_(2); y.t()[1].add_(1); y.view({24})[5].zero_(); return y; });
    same("cat, stack, chunk, pad, flip, roll", {f({4, 6}), f({4, 6})}, [](auto& x) {
        return constant_pad_nd(cat({x[0], stack({x[1], x[0]}).sum(0)}, 1).chunk(2, 1)[1].flip(0).roll(1, 1), {1, 2}); });
    same("embedding, gather, log-softmax", {f({10, 4}), tensor({1, 2, 2, 9}, kLong)}, [](auto& x) {
        return embedding(x[0], x[1]).log_softmax(-1).gather(1, x[1].remainder(4).unsqueeze(1)); });
    same("cross entropy", {f({4, 10}), tensor({1, 2, 2, 9}, kLong)}, [](auto& x) { return cross_entropy_loss(x[0], x[1]); });
    same("index by tensors, index_put", {f({5, 3}), tensor({4, 0}, kLong)}, [](auto& x) {
        auto y = x[0] * 1; y.index_put_({x[1]}, x[0].index({x[1]}) * 3); return y; });
    same("mask and where", {f({5, 3})}, [](auto& x) { return where(x[0] > 0, x[0], zeros_like(x[0])).masked_fill(x[0] < -1, 5); });
    same("sort, topk, cumsum", {f({5, 8})}, [](auto& x) { return std::get<0>(x[0].sort(-1)).cumsum(-1) + std::get<0>(x[0].topk(1)); });
    same("var, norm, logsumexp, clamp", {f({5, 8})}, [](auto& x) { return x[0].var(1) + x[0].norm() + x[0].logsumexp(1) + x[0].clamp(-1, 1).mean(1); });
    same("cholesky, solve", {f({4, 4})}, [](auto& x) { auto y = x[0].matmul(x[0].t()) + eye(4, x[0].options()) * 4; return linalg_solve(y, linalg_cholesky(y)); }, 1e-4);
    same("types", {f({4, 4})}, [](auto& x) { return x[0].to(kBFloat16).matmul(x[0].to(kBFloat16)).to(kFloat); });
    same("arange, full, linspace, eye, one_hot", {f({4, 4})}, [](auto& x) {
        auto o = x[0].options(); return x[0] + arange(4, o) + full({4}, 2, o) + linspace(0, 1, 4, o) + eye(4, o) + one_hot(arange(4, o.dtype(kLong)), 4); });
    same("foreach", {f({4, 4})}, [](auto& x) { std::vector<Tensor> many{x[0] * 1, x[0] * 2}; _foreach_mul_(many, 3.0); return many[0] + many[1] + _foreach_norm(many)[1]; });
    {
        auto p = f({3, 3}), g = f({3, 3}), step = full({}, 1.0f), by = full({}, 2.0f);
        auto run = [&](Device d) {
            std::vector<Tensor> ps{p.to(d, kFloat, false, true)}, gs{g.to(d, kFloat, false, true)}, a{zeros_like(ps[0])}, b{zeros_like(ps[0])}, s{step.to(d)};
            _fused_adamw_(ps, gs, a, b, {}, s, .1, .9, .99, .1, 1e-8, false, false, by.to(d));
            return ps[0].cpu();
        };
        expect(allclose(run(kCPU), run(kCUDA)), "fused AdamW");
        refused("fused AdamW with a step on the CPU", [&] {
            std::vector<Tensor> ps{p.cuda()}, gs{g.cuda()}, a{zeros_like(ps[0])}, b{zeros_like(ps[0])};
            _fused_adamw_(ps, gs, a, b, {}, {step}, .1, .9, .99, .1, 1e-8, false, false, by.cuda());
        });
    }
    auto here = f({3}), there = here.cuda();
    refused("add of both devices", [&] { auto x = here + there; });
    refused("add in place, a CPU tensor", [&] { there.add_(here); });
    refused("CPU tensor plus a scalar on the GPU", [&] { auto x = here + there[0]; });
    refused("matmul", [&] { auto x = there.matmul(here); });
    refused("embedding with CPU ids", [&] { auto x = embedding(f({4, 2}).cuda(), tensor({1}, kLong)); });
    refused("gather with CPU ids", [&] { auto x = there.gather(0, tensor({1}, kLong)); });
    refused("where, condition on the CPU", [&] { auto x = where(here > 0, there, there); });
    refused("cat", [&] { auto x = cat({there, here}); });
    refused("linear, bias on the CPU", [&] { auto x = linear(f({2, 3}).cuda(), f({4, 3}).cuda(), f({4})); });
    refused("group norm, weight on the CPU", [&] { auto x = group_norm(f({2, 4, 3}).cuda(), 2, ones({4}), ones({4})); });
    refused("convolution, weight on the CPU", [&] { auto x = conv2d(f({1, 1, 4, 4}).cuda(), f({1, 1, 3, 3})); });
    there.uniform_();
    auto before = rand({1}).item<float>();
    manual_seed(7);
    auto first = randn({4});
    manual_seed(7);
    randn({5}, TensorOptions().device(kCUDA));
    expect(equal(first, randn({4})), "draws on the device leave the CPU's generator alone");
    there.resize_({8});
    there.fill_(1);
    expect(there.sum().item<float>() == 8, "resize");
    expect(isnan(empty({4}, TensorOptions().device(kCUDA))).all().item<bool>(), "fresh memory is NaN");
    try {
        empty({int64_t(1) << 36}, TensorOptions().device(kCUDA));
        expect(false, "out of memory");
    } catch (const c10::OutOfMemoryError& error) {
        expect(std::string(error.what()).find("CUDA out of memory") == 0, "out of memory");
    }
    auto* read = reinterpret_cast<void (*)(uint64_t*)>(dlsym(RTLD_DEFAULT, "fake_cuda_read"));
    uint64_t a[12], b[12];
    const auto counted = [&](std::function<void()> run) {
        read(a);
        run();
        read(b);
        for (int i = 0; i < 12; ++i) {
            b[i] -= a[i];
        }
    };
    Tensor x;
    counted([&] {
        x = here.cuda() + 1;
        x.sum().item<float>();
    });
    expect(b[0] == 2 && b[3] == 1 && b[5] == 1 && b[7] == 2 && b[8] == 1, "counts: 2 launches, 1 copy each way, 2 waits, 1 of them a stall");
    counted([&] { x = here.pin_memory().to(kCUDA, kFloat, true) + 1; });
    expect(b[3] == 1 && b[7] == 0, "a copy from page-locked memory does not wait");
    counted([&] { x = here.to(kCUDA, kFloat, true) + 1; });
    expect(b[3] == 1 && b[7] == 1, "a copy from other memory waits whatever is asked for");
    // In a process of its own: the CPU reads device memory.
    std::fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        close(2);
        _exit(static_cast<int>(*static_cast<float*>(x.data_ptr())) & 1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    expect(WIFEXITED(status) && WEXITSTATUS(status) == 139, "the CPU that touches device memory ends the program");
    std::printf("%d failures\n", failures);
    return failures != 0;
}
