// Where tensors on the CPU lie. Called by `cpu_memory.rs` alone.

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/alignment.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <cstdlib>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace {

// libtorch asks glibc for aligned blocks. Before its version 2.38, glibc looks for one that is longer than asked by more than the
// alignment and cuts it: a freed block never fits a request of its own length again, and the heap grows to twice what is in
// use. Plain blocks of some bytes more do fit, and are aligned here.
class PlainBlocks final : public c10::Allocator {
  public:
    c10::DataPtr allocate(std::size_t bytes) override {
        const c10::Device cpu(c10::DeviceType::CPU);
        if (bytes == 0) {
            return {nullptr, nullptr, &release, cpu};
        }
        void* const block = std::malloc(sizeof(void*) + c10::gAlignment + bytes);
        TORCH_CHECK(block != nullptr, "CPU out of memory: ", bytes, " bytes for a tensor");
        const auto first = reinterpret_cast<std::uintptr_t>(block) + sizeof(void*);
        void* const aligned = reinterpret_cast<void*>((first + c10::gAlignment - 1) / c10::gAlignment * c10::gAlignment);
        start(aligned) = block;
        return {aligned, aligned, &release, cpu};
    }

    c10::DeleterFnPtr raw_deleter() const override { return &release; }

    void copy_data(void* target, const void* source, std::size_t bytes) const override {
        default_copy_data(target, source, bytes);
    }

  private:
    // Before a tensor's bytes: where its block begins.
    static void*& start(void* aligned) { return static_cast<void**>(aligned)[-1]; }

    static void release(void* aligned) {
        if (aligned != nullptr) {
            std::free(start(aligned));
        }
    }
};

}  // namespace

// Lets freed tensors' memory be used for the next ones.
extern "C" void preftune_keep_and_reuse_memory() {
#if defined(__GLIBC__)
    // Left alone, glibc gives every block of some megabytes back to the system when it is freed and asks for it again, page by
    // page: a tenth of a small model's training step.
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    mallopt(M_TRIM_THRESHOLD, INT32_MAX);
    mallopt(M_TOP_PAD, 64 << 20);
    static PlainBlocks blocks;
    c10::SetCPUAllocator(&blocks, /*priority=*/1);
#endif
}
