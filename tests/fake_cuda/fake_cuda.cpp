// A CUDA device that is none: makes `cuda:0` work on a libtorch without a GPU, to rehearse a program's GPU path.
// For tests only. Built by `build.sh` as `libtorch_cuda.so` and put before libtorch's own in LD_LIBRARY_PATH, it
//
//   * owns "device memory" that the CPU cannot touch: every byte is mapped twice, at an address without access (what tensors on
//     cuda:0 hold, so that code which reads a device pointer dies as on a GPU) and, DELTA further, with access (for the kernels);
//   * checks for every operator that its tensors are on cuda:0, by the rules of libtorch's CUDA wrappers (`operators.py`);
//   * runs the CPU kernel of the operator on CPU tensors over the same memory;
//   * counts launches, copies, and what makes the host wait for the device, with the call sites in the main program.
//
// Kernels run at once and in order: it shows no races and no times, and its numbers are those of the CPU's kernels. One operator
// counts as one launch. Memory has no CUDA context, no workspaces and no fragmentation.
//
// Environment: FAKE_CUDA_REPORT=FILE    where to write counts at exit (none: standard error)
//              FAKE_CUDA_MARK=OP        operator that ends a step (default _fused_adamw_): counts are reported for each step
//              FAKE_CUDA_SITES=all      call sites of launches too, not only of copies, waits and faults
//              FAKE_CUDA_MEMORY_MB=N    size of the device (default 4096): beyond, "CUDA out of memory" as libtorch says it

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/ForeachUtils.h>
#include <ATen/native/transformers/attention.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <dlfcn.h>
#include <execinfo.h>
#include <link.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <sstream>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace {

using c10::DeviceType;
using torch::jit::Stack;

const c10::Device CUDA0(DeviceType::CUDA, 0);

// ---------------------------------------------------------------------------------------------------------------- counts

// STALLS are waits after which the device has nothing left to do though it had before: those that cost time. Many copies in a
// row stall once, and a wait for an event of earlier launches does not while later ones are pending.
enum Count { LAUNCHES, VIEWS, ALLOCATIONS, H2D, H2D_BYTES, D2H, D2H_BYTES, WAITS, STALLS, FAULTS, COUNTS };
constexpr const char* NAMES[COUNTS] = {
    "launches", "views", "allocations", "h2d", "h2d_bytes", "d2h", "d2h_bytes", "waits", "stalls", "faults"};

struct State {
    std::mutex mutex;
    std::array<uint64_t, COUNTS> counts{};
    std::array<uint64_t, COUNTS> at_mark{};
    uint64_t launched = 0, finished = 0;  // launches so far, and those that the host has waited for
    std::vector<std::array<uint64_t, COUNTS>> steps;
    std::map<std::string, uint64_t> launches_by_op;
    // What happened, and where (offsets into the main program, innermost first): how often, and bytes or launches waited for.
    std::map<std::pair<std::string, std::vector<uintptr_t>>, std::array<uint64_t, 2>> sites;
    size_t bytes = 0, peak = 0;
};
State& state() {
    static State* one = new State;  // never destroyed: tensors die after static destructors
    return *one;
}

std::string variable(const char* name, const char* otherwise) {
    const char* value = std::getenv(name);
    return value ? value : otherwise;
}
const bool ALL_SITES = variable("FAKE_CUDA_SITES", "") == "all";
const std::string MARK = variable("FAKE_CUDA_MARK", "_fused_adamw_");

struct Program {
    uintptr_t base = 0, end = 0;
};
const Program& program() {
    static const Program found = [] {
        Program main_program;
        dl_iterate_phdr(
            [](dl_phdr_info* info, size_t, void* out) {
                auto& into = *static_cast<Program*>(out);
                into.base = info->dlpi_addr;
                for (int i = 0; i < info->dlpi_phnum; ++i) {
                    const auto& header = info->dlpi_phdr[i];
                    if (header.p_type == PT_LOAD) {
                        into.end = std::max<uintptr_t>(into.end, info->dlpi_addr + header.p_vaddr + header.p_memsz);
                    }
                }
                return 1;  // the main program comes first
            },
            &main_program);
        return main_program;
    }();
    return found;
}

std::vector<uintptr_t> call_site() {
    void* frames[96];
    const int count = backtrace(frames, 96);
    std::vector<uintptr_t> inside;
    for (int i = 0; i < count && inside.size() < 24; ++i) {
        const auto address = reinterpret_cast<uintptr_t>(frames[i]);
        if (address >= program().base && address < program().end) {
            inside.push_back(address - program().base - 1);
        }
    }
    return inside;
}

void happened(Count what, const std::string& op, uint64_t bytes = 0) {
    auto& s = state();
    const bool site = what == LAUNCHES ? ALL_SITES : (what != VIEWS && what != ALLOCATIONS);
    std::vector<uintptr_t> where;
    if (site) {
        where = call_site();
    }
    std::lock_guard<std::mutex> lock(s.mutex);
    ++s.counts[what];
    s.launched += what == LAUNCHES;
    if (what == WAITS) {
        s.counts[STALLS] += s.finished != s.launched;
        bytes = s.launched - s.finished;
        s.finished = s.launched;
    }
    if (what == H2D || what == D2H) {
        s.counts[what + 1] += bytes;
    }
    if (what == LAUNCHES) {
        ++s.launches_by_op[op];
    }
    if (site) {
        auto& entry = s.sites[{std::string(NAMES[what]) + " " + op, where}];
        entry[0] += 1;
        entry[1] += bytes;
    }
    if (what == LAUNCHES && op == MARK) {
        std::array<uint64_t, COUNTS> step;
        for (int i = 0; i < COUNTS; ++i) {
            step[i] = s.counts[i] - s.at_mark[i];
        }
        s.at_mark = s.counts;
        s.steps.push_back(step);
    }
}

void report() {
    auto& s = state();
    std::lock_guard<std::mutex> lock(s.mutex);
    const std::string path = variable("FAKE_CUDA_REPORT", "");
    FILE* out = path.empty() ? stderr : std::fopen(path.c_str(), "w");
    if (!out) {
        return;
    }
    std::fprintf(out, "total");
    for (int i = 0; i < COUNTS; ++i) {
        std::fprintf(out, " %s=%lu", NAMES[i], s.counts[i]);
    }
    std::fprintf(out, " peak_bytes=%zu left_bytes=%zu\n", s.peak, s.bytes);
    for (size_t n = 0; n < s.steps.size(); ++n) {
        std::fprintf(out, "step %zu", n + 1);
        for (int i = 0; i < COUNTS; ++i) {
            std::fprintf(out, " %s=%lu", NAMES[i], s.steps[n][i]);
        }
        std::fprintf(out, "\n");
    }
    for (const auto& [op, count] : s.launches_by_op) {
        std::fprintf(out, "op %s %lu\n", op.c_str(), count);
    }
    for (const auto& [key, entry] : s.sites) {
        std::fprintf(out, "site %s %lu %lu ", key.first.c_str(), entry[0], entry[1]);
        for (const auto offset : key.second) {
            std::fprintf(out, "%lx,", offset);
        }
        std::fprintf(out, "\n");
    }
    if (out != stderr) {
        std::fclose(out);
    }
}

// ---------------------------------------------------------------------------------------------------------------- memory

// Bytes as libtorch says them.
std::string words(size_t bytes) {
    std::ostringstream text;
    text.precision(2);
    text << std::fixed;
    if (bytes <= 1024) {
        text << bytes << " bytes";
    } else if (bytes <= 1024 * 1024) {
        text << bytes / 1024.0 << " KiB";
    } else if (bytes <= 1024 * 1024 * 1024) {
        text << bytes / 1048576.0 << " MiB";
    } else {
        text << bytes / 1073741824.0 << " GiB";
    }
    return text.str();
}

struct Arena {
    static constexpr size_t GRAIN = 512;  // as libtorch's caching allocator
    size_t size;
    char *device, *host;
    std::mutex mutex;
    std::map<size_t, size_t> free;  // offset, length
    std::unordered_map<size_t, size_t> used;

    Arena() : size(std::stoull(variable("FAKE_CUDA_MEMORY_MB", "4096")) << 20) {
        const int file = memfd_create("fake CUDA", MFD_CLOEXEC);
        TORCH_CHECK(file >= 0 && ftruncate(file, size) == 0, "fake CUDA: no memory file");
        // In one reservation, so that the distance between the two is known.
        char* both = static_cast<char*>(mmap(nullptr, 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        device = static_cast<char*>(mmap(both, size, PROT_NONE, MAP_SHARED | MAP_FIXED, file, 0));
        host = static_cast<char*>(mmap(both + size, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0));
        TORCH_CHECK(device != MAP_FAILED && host != MAP_FAILED, "fake CUDA: no address space");
        close(file);
        free[0] = size;
    }

    void* take(size_t bytes) {
        const size_t length = (bytes + GRAIN - 1) / GRAIN * GRAIN;
        std::lock_guard<std::mutex> lock(mutex);
        auto best = free.end();
        for (auto block = free.begin(); block != free.end(); ++block) {
            if (block->second >= length && (best == free.end() || block->second < best->second)) {
                best = block;
            }
        }
        // Words that programs look for, as libtorch says them.
        TORCH_CHECK_WITH(
            OutOfMemoryError, best != free.end(), "CUDA out of memory. Tried to allocate ", words(bytes),
            ". GPU 0 has a total capacity of ", words(size), " of which ", words(size - state().bytes), " is free.");
        const auto [offset, available] = *best;
        free.erase(best);
        if (available > length) {
            free[offset + length] = available - length;
        }
        used[offset] = length;
        {
            auto& s = state();
            std::lock_guard<std::mutex> counts(s.mutex);
            s.bytes += length;
            s.peak = std::max(s.peak, s.bytes);
        }
        // Fresh memory holds NaN, in every float type: a read of what was never written shows.
        std::memset(host + offset, 0xff, length);
        return device + offset;
    }

    void give(void* pointer) {
        std::lock_guard<std::mutex> lock(mutex);
        size_t offset = static_cast<char*>(pointer) - device;
        const auto block = used.find(offset);
        size_t length = block->second;
        used.erase(block);
        {
            auto& s = state();
            std::lock_guard<std::mutex> counts(s.mutex);
            s.bytes -= length;
        }
        auto next = free.lower_bound(offset);
        if (next != free.end() && offset + length == next->first) {
            length += next->second;
            next = free.erase(next);
        }
        if (next != free.begin()) {
            auto before = std::prev(next);
            if (before->first + before->second == offset) {
                before->second += length;
                return;
            }
        }
        free[offset] = length;
    }

    bool holds(const void* pointer) const { return pointer >= device && pointer < device + size; }
    char* host_of(const void* pointer) const {
        if (pointer == nullptr) {
            return nullptr;
        }
        TORCH_CHECK(holds(pointer), "fake CUDA: a tensor on cuda:0 whose memory is not the device's");
        return const_cast<char*>(static_cast<const char*>(pointer)) + (host - device);
    }
};
Arena& arena() {
    static Arena* one = new Arena;
    return *one;
}

struct DeviceMemory final : c10::Allocator {
    static void release(void* pointer) {
        if (pointer) {
            arena().give(pointer);
        }
    }
    c10::DataPtr allocate(size_t bytes) override {
        void* pointer = bytes ? arena().take(bytes) : nullptr;
        happened(ALLOCATIONS, "");
        return {pointer, pointer, &release, CUDA0};
    }
    c10::DeleterFnPtr raw_deleter() const override { return &release; }
    void copy_data(void* target, const void* source, size_t bytes) const override {
        std::memcpy(arena().host_of(target), arena().host_of(source), bytes);
    }
};
DeviceMemory& device_memory() {
    static DeviceMemory* one = new DeviceMemory;
    return *one;
}

// Memory of the CPU from and to which copies need not wait.
struct PinnedMemory final : at::HostAllocator {
    std::mutex mutex;
    std::map<const char*, size_t> used;

    static void release(void* pointer);
    c10::DataPtr allocate(size_t bytes) override {
        void* pointer = std::malloc(std::max<size_t>(bytes, 1));
        std::lock_guard<std::mutex> lock(mutex);
        used[static_cast<char*>(pointer)] = bytes;
        return {pointer, pointer, &release, c10::Device(DeviceType::CPU)};
    }
    c10::DeleterFnPtr raw_deleter() const override { return &release; }
    void copy_data(void* target, const void* source, size_t bytes) const override { std::memcpy(target, source, bytes); }
    bool holds(const void* data) {
        std::lock_guard<std::mutex> lock(mutex);
        const auto after = used.upper_bound(static_cast<const char*>(data));
        return after != used.begin() && static_cast<const char*>(data) < std::prev(after)->first + std::prev(after)->second;
    }
    bool record_event(void*, void*, c10::Stream) override { return true; }
    void empty_cache() override {}
    at::HostStats get_stats() override { return {}; }
    void reset_accumulated_stats() override {}
    void reset_peak_stats() override {}
};
PinnedMemory& pinned_memory() {
    static PinnedMemory* one = new PinnedMemory;
    return *one;
}
void PinnedMemory::release(void* pointer) {
    auto& memory = pinned_memory();
    std::lock_guard<std::mutex> lock(memory.mutex);
    memory.used.erase(static_cast<char*>(pointer));
    std::free(pointer);
}

// A CPU access to device memory ends the program, as on a GPU, but says so.
struct sigaction before_us;
void on_fault(int signal, siginfo_t* info, void* context) {
    if (arena().holds(info->si_addr)) {
        const char text[] = "fake CUDA: the CPU touched device memory\n";
        (void)!write(2, text, sizeof text - 1);
        void* frames[64];
        backtrace_symbols_fd(frames, backtrace(frames, 64), 2);
        _exit(139);
    }
    sigaction(signal, &before_us, nullptr);  // whoever was before: the access is tried again
}

// ------------------------------------------------------------------------------------------------- device, hooks, streams

struct Guard final : c10::impl::DeviceGuardImplInterface {
    static c10::Stream stream() { return c10::Stream(c10::Stream::DEFAULT, CUDA0); }
    DeviceType type() const override { return DeviceType::CUDA; }
    c10::Device exchangeDevice(c10::Device) const override { return CUDA0; }
    c10::Device getDevice() const override { return CUDA0; }
    void setDevice(c10::Device device) const override { TORCH_CHECK(device.index() <= 0, "CUDA error: invalid device ordinal"); }
    void uncheckedSetDevice(c10::Device) const noexcept override {}
    c10::Stream getStream(c10::Device) const override { return stream(); }
    c10::Stream getDefaultStream(c10::Device) const override { return stream(); }
    c10::Stream getStreamFromGlobalPool(c10::Device, bool) const override { return stream(); }
    c10::Stream getNewStream(c10::Device, int) const override { return stream(); }
    c10::Stream exchangeStream(c10::Stream) const override { return stream(); }
    void record(void** event, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {
        if (!*event) {
            *event = new uint64_t;
        }
        std::lock_guard<std::mutex> lock(state().mutex);
        *static_cast<uint64_t*>(*event) = state().launched;
    }
    void destroyEvent(void* event, c10::DeviceIndex) const noexcept override { delete static_cast<uint64_t*>(event); }
    void block(void*, const c10::Stream&) const override {}
    bool queryEvent(void*) const override { return true; }
    bool queryStream(const c10::Stream&) const override { return true; }
    void synchronizeStream(const c10::Stream&) const override { happened(WAITS, "synchronize"); }
    void synchronizeEvent(void* event) const override {
        const uint64_t recorded = *static_cast<uint64_t*>(event);
        {
            auto& s = state();
            std::lock_guard<std::mutex> lock(s.mutex);
            if (recorded < s.launched) {  // the device stays busy with what came after the event
                s.counts[WAITS] += recorded > s.finished;
                s.finished = std::max(s.finished, recorded);
                return;
            }
        }
        happened(WAITS, "event");
    }
    void synchronizeDevice(c10::DeviceIndex) const override { happened(WAITS, "synchronize"); }
    c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};

// What draws "on the device": of its own, so that the CPU's generator stays where it is, as on a GPU.
const at::Generator& device_generator() {
    static const at::Generator* one = new at::Generator(at::detail::createCPUGenerator());
    return *one;
}

struct CUDAHooks : at::CUDAHooksInterface {
    explicit CUDAHooks(at::CUDAHooksArgs) {}
    void init() const override {}
    bool isBuilt() const override { return true; }
    bool isAvailable() const override { return true; }
    bool hasCUDA() const override { return true; }
    bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
    int getNumGPUs() const override { return 1; }
    c10::DeviceIndex deviceCount() const override { return 1; }
    c10::DeviceIndex current_device() const override { return 0; }
    void setCurrentDevice(c10::DeviceIndex) const override {}
    c10::DeviceIndex getCurrentDevice() const override { return 0; }
    c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
    c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
    void deviceSynchronize(c10::DeviceIndex) const override { happened(WAITS, "synchronize"); }
    const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override { return device_generator(); }
    at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::detail::createCPUGenerator(); }
    c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_memory(); }
    bool isPinnedPtr(const void* data) const override { return pinned_memory().holds(data); }
    c10::Allocator* getCUDADeviceAllocator() const override { return &device_memory(); }
    c10::Device getDeviceFromPtr(void*) const override { return CUDA0; }
    std::string showConfig() const override { return "fake CUDA\n"; }
};

// -------------------------------------------------------------------------------------------------------- operators' table

const std::unordered_set<std::string> UNCHECKED = {
#define NO_CHECK(name) name,
#define KERNEL(name)
#define CPU_ONLY(name)
#include "operators.inc"
#undef NO_CHECK
#undef CPU_ONLY
};

const std::unordered_set<std::string> ABSENT = {
#define NO_CHECK(name)
#define CPU_ONLY(name) name,
#include "operators.inc"
#undef NO_CHECK
#undef KERNEL
#undef CPU_ONLY
};

// Matrix products of integers: CPUs have them, cuBLAS does not.
const std::unordered_set<std::string> PRODUCTS = {"mm.out", "addmm.out", "bmm.out", "baddbmm.out", "addmv.out", "dot"};

// Kernels of libtorch_cuda that wait for the device, since the shape of what they return or an error depends on values.
const std::unordered_set<std::string> WAITING = {
    "nonzero", "nonzero.out", "masked_select", "masked_select.out", "equal", "bincount", "histc", "histc.out", "_unique", "_unique2", "unique_dim",
    "unique_consecutive", "unique_dim_consecutive", "repeat_interleave.Tensor", "multinomial", "multinomial.out", "_linalg_eigh.eigenvalues",
    "linalg_eig", "linalg_eig.out", "_linalg_svd.U", "linalg_lstsq.out", "geqrf", "masked_scatter_"};

// Indices may lie on the CPU: the kernel fetches them.
const std::unordered_set<std::string> FETCHES_INDICES = {"_index_put_impl_", "index.Tensor_out"};

std::string name_of(const c10::OperatorHandle& op) {
    const auto& schema = op.schema();
    std::string name = schema.name();
    if (name.rfind("aten::", 0) == 0) {
        name = name.substr(6);
    }
    return schema.overload_name().empty() ? name : name + "." + schema.overload_name();
}

void fault(const std::string& op, const std::string& text) {
    happened(FAULTS, op);
    TORCH_CHECK(false, text, " (when checking argument in method wrapper_CUDA_", op, ")");
}

// ----------------------------------------------------------------------------------------- tensors here and on the device

at::Tensor wrap(c10::Storage storage, c10::DispatchKey key, const at::Tensor& like) {
    auto tensor = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), like.dtype());
    tensor.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
    return tensor;
}

// A new tensor on the device with the values of one on the CPU.
at::Tensor upload(const at::Tensor& here) {
    if (!here.defined()) {
        return here;
    }
    at::Tensor there = at::detail::empty_strided_generic(
        here.sizes(), here.strides(), &device_memory(), c10::DispatchKeySet(c10::DispatchKey::CUDA), here.scalar_type());
    if (here.numel() != 0) {
        const size_t bytes = at::detail::computeStorageNbytes(here.sizes(), here.strides(), here.element_size());
        std::memcpy(arena().host_of(there.data_ptr()), here.const_data_ptr(), bytes);
    }
    return there;
}

// The CPU's view of the device tensors of one call.
struct Call {
    std::unordered_map<c10::StorageImpl*, c10::Storage> here_of;   // of a device storage
    std::unordered_map<c10::StorageImpl*, c10::Storage> there_of;  // of what we made of it
    struct Argument {
        at::Tensor here, there;
        const void* memory;
    };
    std::vector<Argument> arguments;

    at::Tensor here(const at::Tensor& there) {
        if (!there.defined() || !there.is_cuda()) {
            return there;
        }
        c10::Storage storage = there.storage();
        auto& known = here_of[storage.unsafeGetStorageImpl()];
        if (!known) {
            void* memory = arena().host_of(storage.unsafeGetStorageImpl()->_mutable_data_ptr_no_checks().get());
            known = c10::Storage(c10::make_intrusive<c10::StorageImpl>(
                c10::StorageImpl::use_byte_size_t(), storage.nbytes(),
                c10::DataPtr(memory, nullptr, [](void*) {}, c10::Device(DeviceType::CPU)), c10::GetCPUAllocator(), true));
            there_of.emplace(known.unsafeGetStorageImpl(), storage);
        }
        at::Tensor mine = wrap(known, c10::DispatchKey::CPU, there);
        if (there.unsafeGetTensorImpl()->is_wrapped_number()) {
            mine.unsafeGetTensorImpl()->set_wrapped_number(true);
        }
        mine._set_conj(there.is_conj());
        mine._set_neg(there.is_neg());
        arguments.push_back({mine, there, storage.data()});
        return mine;
    }

    at::Tensor there(const at::Tensor& here) {
        if (!here.defined() || !here.is_cpu()) {
            return here;
        }
        for (const auto& argument : arguments) {
            if (argument.here.is_same(here)) {
                return argument.there;
            }
        }
        const auto origin = there_of.find(here.storage().unsafeGetStorageImpl());
        if (origin != there_of.end()) {  // a view of an argument
            at::Tensor view = wrap(origin->second, c10::DispatchKey::CUDA, here);
            view._set_conj(here.is_conj());
            view._set_neg(here.is_neg());
            return view;
        }
        return upload(here);
    }

    // Where the kernel gave an argument another shape or more memory (`out` of another size), its device tensor gets them too.
    void settle() {
        for (auto& [here, there, before] : arguments) {
            auto* mine = here.storage().unsafeGetStorageImpl();
            auto* theirs = there.storage().unsafeGetStorageImpl();
            const void* now = mine->_mutable_data_ptr_no_checks().get();
            if (now != (before ? arena().host_of(before) : nullptr) && mine->nbytes() > theirs->nbytes()) {
                c10::DataPtr grown = device_memory().allocate(mine->nbytes());
                std::memcpy(arena().host_of(grown.get()), now, mine->nbytes());
                theirs->set_data_ptr_noswap(std::move(grown));
                theirs->set_nbytes(mine->nbytes());
            }
            if (here.sizes() != there.sizes() || here.strides() != there.strides() || here.storage_offset() != there.storage_offset()) {
                there.unsafeGetTensorImpl()->set_sizes_and_strides(here.sizes(), here.strides(), here.storage_offset());
            }
        }
    }
};

// ------------------------------------------------------------------------------------------------------- every other kernel

void check(const std::string& op, const std::string& argument, const at::Tensor& tensor) {
    if (!tensor.defined() || tensor.is_cuda()) {
        return;
    }
    if (tensor.is_cpu() && tensor.dim() == 0 && UNCHECKED.count(op)) {
        return;
    }
    if (tensor.is_cpu() && argument == "indices" && FETCHES_INDICES.count(op)) {
        happened(H2D, op, tensor.nbytes());
        happened(WAITS, op);
        return;
    }
    std::ostringstream text;
    text << "Expected all tensors to be on the same device, but got " << argument << " is on " << tensor.device()
         << ", different from other tensors on cuda:0; it is " << tensor.sizes() << " of " << tensor.scalar_type();
    fault(op, text.str());
}

void on_device(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) {
    const auto& schema = op.schema();
    const std::string name = name_of(op);
    const auto& parameters = schema.arguments();
    const size_t first = stack->size() - parameters.size();
    if (ABSENT.count(name)) {
        fault(name, "Could not run 'aten::" + name + "' with arguments from the 'CUDA' backend");
    }
    if (PRODUCTS.count(name) && c10::isIntegralType((*stack)[first].toTensor().scalar_type(), true)) {
        fault(name, std::string("\"addmm_cuda\" not implemented for '") + c10::toString((*stack)[first].toTensor().scalar_type()) + "'");
    }
    if (name == "_fused_adamw_") {
        const auto list = [&](size_t i) { return (*stack)[first + i].toTensorVector(); };
        const std::vector<at::Tensor> parameters = list(0), gradients = list(1), averages = list(2), squares = list(3);
        if (!at::native::check_fast_path_restrictions({parameters, gradients, averages, squares})) {
            fault(name, "params, grads, exp_avgs, and exp_avg_sqs must have same dtype, device, and layout");
        }
    }
    at::AutoDispatchBelowADInplaceOrView below;
    Call call;
    for (size_t i = 0; i < parameters.size(); ++i) {
        auto& value = (*stack)[first + i];
        const auto& label = parameters[i].name();
        if (value.isTensor()) {
            check(name, label, value.toTensor());
            value = call.here(value.toTensor());
        } else if (value.isTensorList()) {
            c10::List<at::Tensor> list;
            for (const at::Tensor& tensor : value.toTensorVector()) {
                check(name, label, tensor);
                list.push_back(call.here(tensor));
            }
            value = std::move(list);
        } else if (value.isOptionalTensorList()) {
            c10::List<std::optional<at::Tensor>> list;
            for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector()) {
                if (tensor) {
                    check(name, label, *tensor);
                    list.push_back(call.here(*tensor));
                } else {
                    list.push_back(std::nullopt);
                }
            }
            value = std::move(list);
        } else if (value.isDevice()) {
            value = c10::Device(DeviceType::CPU);
        } else if (value.isNone() && parameters[i].type()->annotation_str() == "Optional[Generator]") {
            value = device_generator();
        }
    }
    const bool view = !schema.returns().empty() && schema.returns()[0].alias_info() && !schema.returns()[0].alias_info()->isWrite();
    happened(view ? VIEWS : LAUNCHES, name);
    if (WAITING.count(name)) {
        happened(WAITS, name);
    }
    op.callBoxed(stack);
    call.settle();
    for (size_t i = stack->size() - schema.returns().size(); i < stack->size(); ++i) {
        auto& value = (*stack)[i];
        if (value.isTensor()) {
            value = call.there(value.toTensor());
        } else if (value.isTensorList()) {
            c10::List<at::Tensor> list;
            for (const at::Tensor& tensor : value.toTensorVector()) {
                list.push_back(call.there(tensor));
            }
            value = std::move(list);
        }
    }
}

// ------------------------------------------------------------------------------------------- kernels that are the device's

c10::ScalarType type_or_default(std::optional<c10::ScalarType> type) { return type.value_or(at::typeMetaToScalarType(at::get_default_dtype())); }

at::Tensor empty(
    c10::IntArrayRef size, std::optional<c10::ScalarType> type, std::optional<c10::Layout>, std::optional<c10::Device> device,
    std::optional<bool>, std::optional<c10::MemoryFormat> format) {
    TORCH_CHECK(!device || device->index() <= 0, "CUDA error: invalid device ordinal");
    return at::detail::empty_generic(
        size, &device_memory(), c10::DispatchKeySet(c10::DispatchKey::CUDA), type_or_default(type), format);
}

at::Tensor empty_strided(
    c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<c10::ScalarType> type, std::optional<c10::Layout>,
    std::optional<c10::Device>, std::optional<bool>) {
    return at::detail::empty_strided_generic(
        size, stride, &device_memory(), c10::DispatchKeySet(c10::DispatchKey::CUDA), type_or_default(type));
}

const at::Tensor& resize_(const at::Tensor& self, c10::IntArrayRef size, std::optional<c10::MemoryFormat> format) {
    auto* tensor = self.unsafeGetTensorImpl();
    tensor->set_sizes_contiguous(size);
    if (format) {
        tensor->empty_tensor_restride(*format);
    }
    const size_t bytes = at::detail::computeStorageNbytes(self.sizes(), self.strides(), self.element_size(), self.storage_offset());
    auto* storage = self.storage().unsafeGetStorageImpl();
    if (bytes > storage->nbytes()) {
        c10::DataPtr grown = device_memory().allocate(bytes);
        const void* old = storage->_mutable_data_ptr_no_checks().get();
        if (old) {
            std::memcpy(arena().host_of(grown.get()), arena().host_of(old), storage->nbytes());
        }
        storage->set_data_ptr_noswap(std::move(grown));
        storage->set_nbytes(bytes);
    }
    return self;
}

at::Tensor& set_storage(at::Tensor& self, at::Storage source, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
    auto* tensor = self.unsafeGetTensorImpl();
    tensor->set_storage_keep_dtype(std::move(source));
    if (stride.data() == nullptr) {
        tensor->set_storage_offset(offset);
        tensor->set_sizes_contiguous(size);
    } else {
        tensor->set_sizes_and_strides(size, stride, offset);
    }
    return self;
}

at::Tensor& set_tensor(at::Tensor& self, const at::Tensor& source) {
    return set_storage(self, source.storage(), source.storage_offset(), source.sizes(), source.strides());
}

// A copy waits for everything that was launched before it, unless it may go on by itself: from or to pinned memory.
at::Tensor& copy_(at::Tensor& self, const at::Tensor& source, bool non_blocking) {
    at::AutoDispatchBelowADInplaceOrView below;
    Call call;
    if (self.is_same(source) || self.numel() == 0) {
        return self;
    }
    if (self.is_cuda() && source.is_cuda()) {
        happened(LAUNCHES, "copy_");
    } else {
        // As libtorch: across devices bytes are copied as they are; what also changes type or layout is one kernel more.
        const bool to_device = self.is_cuda();
        const at::Tensor& far = to_device ? self : source;
        if (self.scalar_type() != source.scalar_type() || !self.is_contiguous() || !source.is_contiguous() || self.sizes() != source.sizes()) {
            happened(LAUNCHES, "copy_");
        }
        // Types and shape tell copies of one function apart.
        std::ostringstream what;
        what << (to_device ? "h2d:" : "d2h:") << c10::toString(source.scalar_type()) << ">" << c10::toString(self.scalar_type());
        for (const int64_t size : source.sizes()) {
            what << ":" << size;
        }
        happened(to_device ? H2D : D2H, what.str(), far.numel() * source.element_size());
        if (!non_blocking || !pinned_memory().holds((to_device ? source : self).const_data_ptr())) {
            happened(WAITS, what.str());
        }
    }
    at::Tensor target = call.here(self);
    target.copy_(call.here(source));
    return self;
}

at::Scalar local_scalar(const at::Tensor& self) {
    at::AutoDispatchBelowADInplaceOrView below;
    happened(D2H, "item", self.element_size());
    happened(WAITS, "item");
    Call call;
    return at::_local_scalar_dense(call.here(self));
}

void record_stream(at::Tensor&, c10::Stream) {}

// Attention. Which kernel libtorch_cuda takes, of an Ampere or newer and without cuDNN's: flash for half types without a mask,
// memory-efficient for others whose rows are aligned.
int64_t choose(
    const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const std::optional<at::Tensor>& mask, double, bool,
    std::optional<double>, bool allows_groups) {
    enum { MATH = 0, FLASH = 1, EFFICIENT = 2 };
    if (query.dim() != 4 || !key.is_cuda() || !value.is_cuda()) {
        return MATH;
    }
    const bool half = query.scalar_type() == at::kBFloat16 || query.scalar_type() == at::kHalf;
    const bool one_type = query.scalar_type() == key.scalar_type() && key.scalar_type() == value.scalar_type();
    if (!one_type || !(half || query.scalar_type() == at::kFloat)) {
        return MATH;
    }
    const bool grouped = query.size(1) != key.size(1);
    if (grouped && !allows_groups) {
        return MATH;
    }
    if (half && !(mask && mask->defined()) && query.size(-1) <= 256) {
        return FLASH;
    }
    // libtorch 2.11's memory-efficient kernel has no grouped queries: with a mask, or in f32, they fall to plain products, which
    // keep all weights in f32.
    if (grouped) {
        return MATH;
    }
    const int64_t aligned = half ? 8 : 4;
    return query.size(-1) % aligned == 0 && value.size(-1) % aligned == 0 ? EFFICIENT : MATH;
}

// Keys or values repeated for the queries that share them, and gradients of the repeated ones added up.
at::Tensor repeated(const at::Tensor& shared, int64_t heads) {
    return shared.size(1) == heads ? shared : shared.repeat_interleave(heads / shared.size(1), 1);
}
at::Tensor summed(const at::Tensor& gradient, int64_t heads) {
    if (gradient.size(1) == heads) {
        return gradient;
    }
    return gradient.unflatten(1, {heads, -1}).sum(2);
}

std::tuple<at::Tensor, at::Tensor> attend(
    Call& call, const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const std::optional<at::Tensor>& bias,
    double dropout, bool causal, std::optional<double> scale) {
    std::optional<at::Tensor> mask;
    if (bias && bias->defined()) {
        mask = call.here(*bias);
    }
    auto [output, sums] = at::_scaled_dot_product_flash_attention_for_cpu(
        call.here(query), repeated(call.here(key), query.size(1)), repeated(call.here(value), query.size(1)), dropout, causal, mask, scale);
    return {upload(output), upload(sums)};
}

void check_all(const std::string& op, std::initializer_list<at::Tensor> tensors) {
    for (const auto& tensor : tensors) {
        check(op, "tensor", tensor);
    }
    happened(LAUNCHES, op);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, c10::SymInt, c10::SymInt, at::Tensor, at::Tensor, at::Tensor> flash(
    const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, double dropout, bool causal, bool, std::optional<double> scale) {
    at::AutoDispatchBelowADInplaceOrView below;
    check_all("_scaled_dot_product_flash_attention", {query, key, value});
    Call call;
    auto [output, sums] = attend(call, query, key, value, std::nullopt, dropout, causal, scale);
    const at::Tensor seed = at::detail::empty_generic({2}, &device_memory(), c10::DispatchKeySet(c10::DispatchKey::CUDA), at::kUInt64, {});
    const at::Tensor none = at::detail::empty_generic({0}, &device_memory(), c10::DispatchKeySet(c10::DispatchKey::CUDA), query.scalar_type(), {});
    return {output, sums, at::Tensor(), at::Tensor(), query.size(2), key.size(2), seed, none, none};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> flash_backward(
    const at::Tensor& gradient, const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const at::Tensor& output,
    const at::Tensor& sums, const at::Tensor&, const at::Tensor&, c10::SymInt, c10::SymInt, double dropout, bool causal, const at::Tensor&,
    const at::Tensor&, std::optional<double> scale) {
    at::AutoDispatchBelowADInplaceOrView below;
    check_all("_scaled_dot_product_flash_attention_backward", {gradient, query, key, value, output, sums});
    Call call;
    auto [q, k, v] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        call.here(gradient), call.here(query), repeated(call.here(key), query.size(1)), repeated(call.here(value), query.size(1)),
        call.here(output), call.here(sums), dropout, causal, std::nullopt, scale);
    return {upload(q), upload(summed(k, key.size(1))), upload(summed(v, value.size(1)))};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> efficient(
    const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const std::optional<at::Tensor>& bias, bool, double dropout,
    bool causal, std::optional<double> scale) {
    at::AutoDispatchBelowADInplaceOrView below;
    check_all("_scaled_dot_product_efficient_attention", {query, key, value, bias.value_or(at::Tensor())});
    Call call;
    auto [output, sums] = attend(call, query, key, value, bias, dropout, causal, scale);
    const at::Tensor seed = at::detail::empty_generic({}, &device_memory(), c10::DispatchKeySet(c10::DispatchKey::CUDA), at::kLong, {});
    return {output, sums, seed, seed};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> efficient_backward(
    const at::Tensor& gradient, const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const at::Tensor& bias,
    const at::Tensor& output, const at::Tensor& sums, const at::Tensor&, const at::Tensor&, double dropout, std::array<bool, 4> wanted,
    bool causal, std::optional<double> scale) {
    at::AutoDispatchBelowADInplaceOrView below;
    if (!gradient.defined()) {
        return {};
    }
    TORCH_CHECK(!(bias.defined() && wanted[3]), "fake CUDA: no gradient of an attention mask");
    check_all("_scaled_dot_product_efficient_attention_backward", {gradient, query, key, value, bias, output, sums});
    Call call;
    std::optional<at::Tensor> mask;
    if (bias.defined()) {
        mask = call.here(bias);
    }
    auto [q, k, v] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        call.here(gradient), call.here(query), repeated(call.here(key), query.size(1)), repeated(call.here(value), query.size(1)),
        call.here(output), call.here(sums), dropout, causal, mask, scale);
    return {upload(q), upload(summed(k, key.size(1))), upload(summed(v, value.size(1))), at::Tensor()};
}

// The fused norm that the CPU does not have.
std::tuple<at::Tensor, at::Tensor> rms_norm(
    const at::Tensor& xs, c10::IntArrayRef shape, const std::optional<at::Tensor>& weight, std::optional<double> epsilon) {
    at::AutoDispatchBelowADInplaceOrView below;
    check_all("_fused_rms_norm", {xs, weight.value_or(at::Tensor())});
    Call call;
    std::vector<int64_t> dims;
    for (size_t i = 0; i < shape.size(); ++i) {
        dims.push_back(-1 - static_cast<int64_t>(i));
    }
    const at::Tensor wide = call.here(xs).to(at::kFloat);
    const at::Tensor scale =
        (wide.square().mean(dims, true) + epsilon.value_or(std::numeric_limits<float>::epsilon())).rsqrt();
    at::Tensor ys = wide * scale;
    if (weight && weight->defined()) {
        ys = ys * call.here(*weight).to(at::kFloat);
    }
    return {upload(ys.to(xs.scalar_type())), upload(scale)};
}

std::tuple<at::Tensor, at::Tensor> rms_norm_backward(
    const at::Tensor& gradient, const at::Tensor& xs, c10::IntArrayRef shape, const at::Tensor& scale, const std::optional<at::Tensor>& weight,
    std::array<bool, 2> wanted) {
    at::AutoDispatchBelowADInplaceOrView below;
    check_all("_fused_rms_norm_backward", {gradient, xs, scale, weight.value_or(at::Tensor())});
    Call call;
    std::vector<int64_t> inner, outer;
    for (int64_t i = 0; i < xs.dim(); ++i) {
        (i < xs.dim() - static_cast<int64_t>(shape.size()) ? outer : inner).push_back(i);
    }
    const at::Tensor upstream = call.here(gradient).to(at::kFloat), root = call.here(scale);
    const at::Tensor normal = call.here(xs).to(at::kFloat) * root;
    at::Tensor of_xs, of_weight;
    if (wanted[0]) {
        const at::Tensor scaled = weight && weight->defined() ? upstream * call.here(*weight).to(at::kFloat) : upstream;
        of_xs = upload(((scaled - normal * (scaled * normal).mean(inner, true)) * root).to(xs.scalar_type()));
    }
    if (wanted[1] && weight && weight->defined()) {
        at::Tensor product = upstream * normal;
        of_weight = upload((outer.empty() ? product : product.sum(outer)).to(weight->scalar_type()));
    }
    return {of_xs, of_weight};
}

// ------------------------------------------------------------------------------------------------------------- registration

TORCH_LIBRARY_IMPL(_, CUDA, library) { library.fallback(torch::CppFunction::makeFromBoxedFunction<&on_device>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
    library.impl("empty.memory_format", empty);
    library.impl("empty_strided", empty_strided);
    library.impl("resize_", resize_);
    library.impl("set_.source_Storage_storage_offset", set_storage);
    library.impl("set_.source_Tensor", set_tensor);
    library.impl("copy_", copy_);
    library.impl("_local_scalar_dense", local_scalar);
    library.impl("record_stream", record_stream);
    library.impl("_fused_sdp_choice", choose);
    library.impl("_scaled_dot_product_flash_attention", flash);
    library.impl("_scaled_dot_product_flash_attention_backward", flash_backward);
    library.impl("_scaled_dot_product_efficient_attention", efficient);
    library.impl("_scaled_dot_product_efficient_attention_backward", efficient_backward);
    library.impl("_fused_rms_norm", rms_norm);
    library.impl("_fused_rms_norm_backward", rms_norm_backward);
#define NO_CHECK(name)
#define CPU_ONLY(name)
#define KERNEL(name) library.impl(name, torch::CppFunction::makeFromBoxedFunction<&on_device>());
#include "operators.inc"
}

C10_REGISTER_GUARD_IMPL(CUDA, Guard)
using at::CUDAHooksRegistry, at::RegistererCUDAHooksRegistry;
REGISTER_CUDA_HOOKS(CUDAHooks)

const bool started = [] {
    c10::SetAllocator(DeviceType::CUDA, &device_memory());
    at::setHostAllocator(DeviceType::CUDA, &pinned_memory());
    at::native::_fused_sdp_choice_stub.set_cuda_dispatch_ptr(choose);
    struct sigaction action{};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &before_us);
    void* warm[4];
    backtrace(warm, 4);  // loads the unwinder now, not within a kernel
    std::atexit(report);
    return true;
}();

}  // namespace

extern "C" {
// The counts in their order, bytes in use, most bytes in use.
void fake_cuda_read(uint64_t out[COUNTS + 2]) {
    auto& s = state();
    std::lock_guard<std::mutex> lock(s.mutex);
    std::copy(s.counts.begin(), s.counts.end(), out);
    out[COUNTS] = s.bytes;
    out[COUNTS + 1] = s.peak;
}
void fake_cuda_reset() {
    auto& s = state();
    std::lock_guard<std::mutex> lock(s.mutex);
    s.counts = {};
    s.at_mark = {};
    s.steps.clear();
    s.launches_by_op.clear();
    s.sites.clear();
    s.peak = s.bytes;
}
}
