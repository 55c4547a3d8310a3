// Devices and launches by the CUDA runtime, on the host's side. Included by simt.cuh alone.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <map>
#include <mutex>
#include <source_location>
#include <string>
#include <string_view>
#include <tuple>

namespace kvmem::simt {

constexpr int kDevices = 64;

inline int current_device() {
  int index = 0;
  cudaGetDevice(&index);
  return index;
}

inline int64_t device_key() { return current_device(); }

// The library has a CUDA runtime of its own beside the framework's: this one is told too which device is meant.
inline const char* select_device(int index) {
  const cudaError_t error = cudaSetDevice(index);
  if (error == cudaSuccess) return nullptr;
  cudaGetLastError();
  return cudaGetErrorString(error);
}

// Of the current device. Asked for once: the runtime takes longer to answer than to launch a kernel.
inline Device device() {
  static std::once_flag asked[kDevices];
  static Device devices[kDevices];
  const int index = current_device();
  std::call_once(asked[index], [index] {
    const auto read = [index](cudaDeviceAttr attribute) {
      int value = 0;
      cudaDeviceGetAttribute(&value, attribute, index);
      return value;
    };
    devices[index] = {
        10 * read(cudaDevAttrComputeCapabilityMajor) + read(cudaDevAttrComputeCapabilityMinor),
        read(cudaDevAttrMultiProcessorCount), read(cudaDevAttrMaxSharedMemoryPerBlockOptin),
        read(cudaDevAttrMaxSharedMemoryPerMultiprocessor), read(cudaDevAttrL2CacheSize)};
  });
  return devices[index];
}

// Whether `stream` can take a launch that begins early. Graphs can from CUDA 12.3 on; captured by an older driver it is a
// launch like any other.
inline bool takes_early_launches(void* stream) {
  static const int driver = [] {
    int version = 0;
    cudaDriverGetVersion(&version);
    return version;
  }();
  if (driver >= 12030) return true;
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status);
  return status == cudaStreamCaptureStatusNone;
}

// The launch as the runtime wants it; `attributes` must outlive it. A cluster of one block is one, too: without its size
// the runtime doesn't say how many fit. Devices before 9.0 know neither clusters nor launches that begin early.
using LaunchAttributes = std::array<cudaLaunchAttribute, 2>;
inline cudaLaunchConfig_t launch_config(const Launch& launch, LaunchAttributes& attributes) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(launch.blocks));
  config.blockDim = dim3(launch.threads);
  config.dynamicSmemBytes = launch.shared_bytes;
  config.stream = static_cast<cudaStream_t>(launch.stream);
  config.attrs = attributes.data();
  if (device().capability < 90) return config;
  cudaLaunchAttribute& cluster = attributes[config.numAttrs++];
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = launch.cluster;
  cluster.val.clusterDim.y = 1;
  cluster.val.clusterDim.z = 1;
  if (launch.early && takes_early_launches(launch.stream)) {
    cudaLaunchAttribute& early = attributes[config.numAttrs++];
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
  }
  return config;
}

// Lets `kernel` have as much shared memory as the device has, before a cache of that memory, and clusters of 16. Once a
// kernel and device.
template <auto kernel>
void allow_large_launches() {
  static std::once_flag allowed[kDevices];
  std::call_once(allowed[current_device()], [] {
    const Device limits = device();
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, limits.block_shared);
    cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
    if (limits.capability >= 90) cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    // What is refused here shows in clusters_that_fit or in the launch.
    cudaGetLastError();
  });
}

// How many such clusters the device runs at a time: 0 where it can't run one. Asked for once a kind of launch, and again
// after an error, which may be of something before.
template <auto kernel>
int clusters_that_fit(const Launch& launch) {
  static std::mutex mutex;
  static std::map<std::tuple<int, int, int, int>, int> answers;
  const std::lock_guard<std::mutex> lock(mutex);
  const std::tuple key(current_device(), launch.threads, launch.cluster, launch.shared_bytes);
  if (const auto known = answers.find(key); known != answers.end()) return known->second;
  allow_large_launches<kernel>();
  LaunchAttributes attributes{};
  const cudaLaunchConfig_t config = launch_config(launch, attributes);
  int clusters = 0;
  if (cudaOccupancyMaxActiveClusters(&clusters, kernel, &config) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return answers[key] = clusters;
}

// "general_forward_tiles<...> (general/forward.cuh:234): out of memory", valid until the thread's next failure.
template <auto kernel>
const char* failure(cudaError_t error, const std::source_location& where) {
  thread_local std::string message;
  const std::string_view function = __PRETTY_FUNCTION__, file = where.file_name();
  const size_t first = function.find("kernel = ") + 9;
  message = function.substr(first, function.find_first_of(";]", first) - first);
  message.append(" (").append(file.substr(file.find("cuda/") + 5)).append(":").append(std::to_string(where.line()));
  return message.append("): ").append(cudaGetErrorString(error)).c_str();
}

// Null, or what went wrong.
template <auto kernel, typename Parameters>
const char* launch(const Launch& launch, const Parameters& parameters,
                   const std::source_location& where = std::source_location::current()) {
  if (launch.blocks == 0) return nullptr;
  allow_large_launches<kernel>();
  LaunchAttributes attributes{};
  const cudaLaunchConfig_t config = launch_config(launch, attributes);
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, parameters);
  if (error == cudaSuccess) return nullptr;
  cudaGetLastError();
  return failure<kernel>(error, where);
}

}  // namespace kvmem::simt
