// Views as the device has them, pointers alone: with KVMEM_RECORDED_LAUNCHES the structs that kernels are launched with
// have the bytes that the device's kernels read. Launches can then be recorded, not run. Included by host.h alone.
#pragma once

#include <cstring>

#include "host_engine.h"

namespace kvmem::simt {

template <typename T>
struct View {
  T* data;

  template <typename I>
  T& operator[](I i) const {
    return data[i];
  }
  template <typename I>
  View operator+(I i) const {
    return {data + i};
  }
  template <typename U>
  View<U> as() const {
    return {reinterpret_cast<U*>(data)};
  }
  explicit operator bool() const { return data != nullptr; }
};

template <typename T>
View<T> view(T* data, int64_t) {
  return {data};
}

template <typename T>
View<T> shared(int byte, int) {
  return {reinterpret_cast<T*>(host::shared_memory(byte, 0, alignof(T)))};
}

template <typename T, typename I>
void store_peer(View<T>, I, int, T) {
  host::fail("only recorded");
}

template <typename T, typename I>
Words4 load16(View<T> v, I i) {
  Words4 x;
  std::memcpy(&x, v.data + i, 16);
  return x;
}

template <typename T, typename I>
void store16(View<T>, I, Words4) {
  host::fail("only recorded");
}

template <typename T, typename I>
void store16_streaming(View<T>, I, Words4) {
  host::fail("only recorded");
}

template <typename T, typename I>
void prefetch(View<T>, I) {
  host::fail("only recorded");
}

namespace host {

template <typename T>
char* own_shared(View<T>, size_t) {
  fail("only recorded");
}

template <typename T>
char* own_shared16(View<T>) {
  fail("only recorded");
}

}  // namespace host

template <typename T, typename U>
void copy16_async(View<T>, View<U>, bool) {
  host::fail("only recorded");
}

}  // namespace kvmem::simt
