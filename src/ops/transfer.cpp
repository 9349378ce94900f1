// Copies between the computer's memory and a GPU's that the program does not wait for, which tch does not bind.
// Called by `transfer.rs` alone.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstring>
#include <exception>

// Numbers on their way from a GPU, and when they are there.
struct Download {
    at::Tensor values;
    c10::Event arrived;
};

// A copy of `here` on GPU `device`. Only from page-locked memory can it go on by itself; libtorch gives that memory to others once
// the copy is done. Returns null, or why it failed (to be given back to `preftune_release`).
extern "C" char* preftune_upload(const at::Tensor* here, int device, at::Tensor** there) {
    try {
        const auto locked = here->options().requires_grad(false).pinned_memory(true);
        const at::Tensor ready = at::empty(here->sizes(), locked).copy_(here->detach());
        const auto target = at::Device(at::kCUDA, static_cast<at::DeviceIndex>(device));
        *there = new at::Tensor(ready.to(target, here->scalar_type(), /*non_blocking=*/true));
        return nullptr;
    } catch (const std::exception& error) {
        return strdup(error.what());
    }
}

// Begins a copy of `there` to the computer's memory.
extern "C" char* preftune_begin_download(const at::Tensor* there, Download** download) {
    try {
        at::Tensor here = there->to(at::Device(at::kCPU), there->scalar_type(), /*non_blocking=*/true);
        c10::Event arrived(at::kCUDA);
        arrived.record(c10::impl::VirtualGuardImpl(at::kCUDA).getStream(there->device()));
        *download = new Download{std::move(here), std::move(arrived)};
        return nullptr;
    } catch (const std::exception& error) {
        return strdup(error.what());
    }
}

// Waits until the numbers are there.
extern "C" char* preftune_end_download(Download* download, at::Tensor** here) {
    try {
        download->arrived.synchronize();
        *here = new at::Tensor(download->values);
        return nullptr;
    } catch (const std::exception& error) {
        return strdup(error.what());
    }
}

extern "C" void preftune_drop_download(Download* download) { delete download; }
