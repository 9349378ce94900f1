// What `ProcessGroupGloo.hpp` has to see of Gloo, whose own headers come with no package of libtorch. libtorch holds all of it behind
// pointers and we call none of it: names and virtual functions are enough, and nothing of this is compiled into the program.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

namespace gloo {

struct Context {
    virtual ~Context();
    void setTimeout(std::chrono::milliseconds timeout);
};

namespace transport {

class Device;

struct UnboundBuffer {
    virtual ~UnboundBuffer();
};

}  // namespace transport

namespace rendezvous {

struct Store {
    using Keys = std::vector<std::string>;

    virtual ~Store();
    virtual void set(const std::string& key, const std::vector<char>& value) = 0;
    virtual std::vector<char> get(const std::string& key) = 0;
    virtual void wait(const Keys& keys) = 0;
    virtual void wait(const Keys& keys, const std::chrono::milliseconds& timeout) = 0;
};

}  // namespace rendezvous
}  // namespace gloo
