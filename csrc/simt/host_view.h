// Views of the host build: pointers that know what they may point at. Included by host.h alone.
#pragma once

#include <type_traits>

#include "host_engine.h"

namespace kvmem::simt {

template <typename T>
struct View {
  T* data;
  uintptr_t begin, end;  // addresses
  host::Block* owner;    // of shared memory; null: global memory

  // Integer arithmetic: the element before the first one is no pointer, but views may well be moved there and back.
  template <typename I>
  uintptr_t address(I i) const {
    return reinterpret_cast<uintptr_t>(data) + static_cast<int64_t>(i) * static_cast<int64_t>(sizeof(T));
  }

  // The address of `size` bytes at element i, if they are there.
  template <typename I>
  uintptr_t inside(I i, size_t size, size_t alignment) const {
    const uintptr_t at = address(i);
    if (at < begin || at + size > end || at % alignment) [[unlikely]] {
      host::refuse_access(at, begin, end, size, alignment, owner);
    }
    return at;
  }

  // The same for an access, after all checks.
  template <typename I>
  uintptr_t checked(I i, size_t size, size_t alignment) const {
    const uintptr_t at = inside(i, size, alignment);
    if (owner && (!host::current || owner != host::current->block)) host::use_shared_memory_of(owner);
    if (host::following) host::follow(at, size, owner, std::is_const_v<T>);
    return at;
  }

  template <typename I>
  T& operator[](I i) const {
    return *reinterpret_cast<T*>(checked(i, sizeof(T), alignof(T)));
  }
  template <typename I>
  View operator+(I i) const {
    return {reinterpret_cast<T*>(address(i)), begin, end, owner};
  }
  template <typename U>
  View<U> as() const {
    return {reinterpret_cast<U*>(data), begin, end, owner};
  }
  explicit operator bool() const { return data != nullptr; }
};

template <typename T>
View<T> view(T* data, int64_t count) {
  if (!data) return {};
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data);
  return {data, begin, begin + count * sizeof(T), nullptr};
}

template <typename T>
View<T> shared(int byte, int count) {
  char* memory = host::shared_memory(byte, static_cast<int64_t>(count) * static_cast<int64_t>(sizeof(T)), alignof(T));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(memory);
  return {reinterpret_cast<T*>(memory), begin, begin + count * sizeof(T), host::current->block};
}

template <typename T, typename I>
void store_peer(View<T> v, I i, int rank, T x) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  host::Block* there = host::block_of_cluster(rank);
  if (!v.owner) host::fail("store_peer by a view of global memory");
  const uintptr_t distance = reinterpret_cast<uintptr_t>(there->shared) - reinterpret_cast<uintptr_t>(v.owner->shared);
  const uintptr_t data = reinterpret_cast<uintptr_t>(v.data) + distance;
  View<T>{reinterpret_cast<T*>(data), v.begin + distance, v.end + distance, there}[i] = x;
}

template <typename T, typename I>
Words4 load16(View<T> v, I i) {
  Words4 x;
  std::memcpy(&x, reinterpret_cast<const void*>(v.checked(i, 16, 16)), 16);
  return x;
}

template <typename T, typename I>
void store16(View<T> v, I i, Words4 x) {
  std::memcpy(reinterpret_cast<void*>(v.checked(i, 16, 16)), &x, 16);
}

template <typename T, typename I>
void store16_streaming(View<T> v, I i, Words4 x) {
  if (v.owner) host::fail("store16_streaming to shared memory");
  store16(v, i, x);
  host::note_streamed(v.address(i));
}

template <typename T, typename I>
void prefetch(View<T> v, I i) {
  if (v.owner) host::fail("prefetch of shared memory");
  v.inside(i, sizeof(T), alignof(T));
}

namespace host {

// A place of so many bytes in the block's own shared memory, as instructions that know no other memory want it.
template <typename T>
char* own_shared(View<T> v, size_t size) {
  if (!v.owner || !current || v.owner != current->block) fail("expected a view of the block's own shared memory");
  return reinterpret_cast<char*>(v.inside(0, size, size));
}

// The same for an access of 16 bytes.
template <typename T>
char* own_shared16(View<T> v) {
  own_shared(v, 16);
  return reinterpret_cast<char*>(v.checked(0, 16, 16));
}

}  // namespace host

template <typename T, typename U>
void copy16_async(View<T> to, View<U> from, bool valid) {
  if (valid && from.owner) host::fail("copy16_async from shared memory");
  char* there = host::own_shared16(to);
  host::start_copy(there, valid ? reinterpret_cast<const char*>(from.checked(0, 16, 16)) : nullptr);
}

}  // namespace kvmem::simt
