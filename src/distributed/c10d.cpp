// Groups of processes that train one model together, by libtorch's own engine (c10d) with Gloo, which tch does not bind.
// Called by `group.rs` alone.
//
// Gloo works in the computer's memory: tensors on a GPU go through a copy there.

#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <chrono>
#include <cstring>
#include <exception>
#include <string>
#include <utility>
#include <vector>

using std::chrono::milliseconds;

namespace {

using Work = c10::intrusive_ptr<c10d::Work>;

struct Group {
    // Where the processes have found each other; the group reads it as long as it lives.
    c10::intrusive_ptr<c10d::Store> store;
    c10::intrusive_ptr<c10d::ProcessGroupGloo> gloo;
};

struct Meeting {
    c10::intrusive_ptr<c10d::TCPStore> store;
};

// Runs `work`; null, or why it failed (to be given back to `preftune_release`), without the C++ stack.
template <class F>
char* guarded(F&& work) {
    try {
        work();
        return nullptr;
    } catch (const c10::Error& error) {
        return strdup(error.what_without_backtrace());
    } catch (const std::exception& error) {
        return strdup(error.what());
    }
}

// A tensor as Gloo takes it: without a graph, contiguous, in the computer's memory; the tensor itself where it is that already.
at::Tensor staged(const at::Tensor& tensor) {
    return tensor.detach().to(at::kCPU).contiguous();
}

// Puts back what `staged` has copied.
void put_back(const at::Tensor& tensor, const at::Tensor& copy) {
    if (!copy.is_same(tensor) && copy.data_ptr() != tensor.data_ptr()) {
        tensor.detach().copy_(copy);
    }
}

Work begin_sum(Group* group, const at::Tensor& here) {
    std::vector<at::Tensor> one{here};
    return group->gloo->allreduce(one);
}

void wait_for_all(const std::vector<Work>& works) {
    // Those that are still under way write into tensors, which must not go before they end.
    std::exception_ptr first;
    for (const Work& work : works) {
        try {
            work->wait();
        } catch (...) {
            if (!first) {
                first = std::current_exception();
            }
        }
    }
    if (first) {
        std::rethrow_exception(first);
    }
}

// Places of the trained tensors in each bucket: of one type, of so many bytes at most. Gradients come about last layer first.
std::vector<std::vector<size_t>> buckets(const std::vector<at::Tensor>& gradients, size_t bytes) {
    std::vector<std::vector<size_t>> all;
    size_t filled = 0;
    for (size_t i = gradients.size(); i-- > 0;) {
        if (!gradients[i].defined()) {
            continue;
        }
        const bool fits = !all.empty() && filled + gradients[i].nbytes() <= bytes &&
                          gradients[all.back().back()].options().type_equal(gradients[i].options());
        if (!fits) {
            all.emplace_back();
            filled = 0;
        }
        filled += gradients[i].nbytes();
        all.back().push_back(i);
    }
    return all;
}

}  // namespace

// Serves a place where processes can find each other, at a free port.
extern "C" char* preftune_serve_meeting(uint16_t* port, Meeting** meeting) {
    return guarded([&] {
        c10d::TCPStoreOptions options;
        options.port = 0;
        options.isServer = true;
        options.waitWorkers = false;
        auto store = c10::make_intrusive<c10d::TCPStore>("127.0.0.1", options);
        *port = store->getPort();
        *meeting = new Meeting{std::move(store)};
    });
}

extern "C" void preftune_drop_meeting(Meeting* meeting) { delete meeting; }

// Joins the processes that meet at `host:port` under the name `attempt`; the first one serves the place itself if `serves`.
extern "C" char* preftune_join_group(const char* host, uint16_t port, int rank, int world, int serves, const char* attempt,
                                     int64_t timeout_ms, Group** group) {
    return guarded([&] {
        c10d::TCPStoreOptions options;
        options.port = port;
        options.isServer = serves != 0;
        options.numWorkers = static_cast<size_t>(world);
        options.timeout = milliseconds(timeout_ms);
        auto meeting = c10::make_intrusive<c10d::TCPStore>(host, options);
        c10::intrusive_ptr<c10d::Store> store = c10::make_intrusive<c10d::PrefixStore>(attempt, std::move(meeting));
        auto gloo = c10::make_intrusive<c10d::ProcessGroupGloo>(
            store, rank, world, c10d::ProcessGroupGloo::Options::create_default(milliseconds(timeout_ms)));
        *group = new Group{std::move(store), std::move(gloo)};
    });
}

extern "C" void preftune_leave_group(Group* group) { delete group; }

// Adds a tensor up over all processes, in its place.
extern "C" char* preftune_sum(Group* group, const at::Tensor* tensor) {
    return guarded([&] {
        c10::AutoGradMode no_graph(false);
        const at::Tensor here = staged(*tensor);
        begin_sum(group, here)->wait();
        put_back(*tensor, here);
    });
}

// Gives all processes the first one's tensors, in the place of theirs.
extern "C" char* preftune_broadcast(Group* group, const at::Tensor* const* tensors, size_t count) {
    return guarded([&] {
        c10::AutoGradMode no_graph(false);
        for (size_t i = 0; i < count; ++i) {
            const at::Tensor here = staged(*tensors[i]);
            std::vector<at::Tensor> one{here};
            group->gloo->broadcast(one)->wait();
            put_back(*tensors[i], here);
        }
    });
}

// Adds the gradients of trained tensors up over all processes, in flat buckets that are all under way at once. A tensor that has a
// gradient in one process has one in all afterwards.
extern "C" char* preftune_sum_gradients(Group* group, const at::Tensor* const* tensors, size_t count, size_t bytes) {
    return guarded([&] {
        c10::AutoGradMode no_graph(false);
        at::Tensor used = at::zeros({static_cast<int64_t>(count)}, at::kInt);
        for (size_t i = 0; i < count; ++i) {
            used.data_ptr<int>()[i] = tensors[i]->grad().defined() ? 1 : 0;
        }
        begin_sum(group, used)->wait();
        std::vector<at::Tensor> gradients(count);
        for (size_t i = 0; i < count; ++i) {
            if (used.data_ptr<int>()[i] > 0) {
                at::Tensor& own = tensors[i]->mutable_grad();
                if (!own.defined()) {
                    own = at::zeros_like(*tensors[i]).detach();
                }
                gradients[i] = own;
            }
        }
        const auto all = buckets(gradients, bytes);
        std::vector<at::Tensor> flat;
        std::vector<Work> works;
        for (const auto& bucket : all) {
            std::vector<at::Tensor> parts;
            for (const size_t i : bucket) {
                parts.push_back(gradients[i].detach().reshape({-1}));
            }
            // A copy in any case: a bucket of one would else be the gradient itself, which strides may have spread.
            flat.push_back(staged(at::cat(parts, 0)));
            works.push_back(begin_sum(group, flat.back()));
        }
        wait_for_all(works);
        for (size_t b = 0; b < all.size(); ++b) {
            int64_t begin = 0;
            for (const size_t i : all[b]) {
                const int64_t size = gradients[i].numel();
                gradients[i].detach().copy_(flat[b].narrow(0, begin, size).view(gradients[i].sizes()));
                begin += size;
            }
        }
    });
}
