// What torch asks of a CUDA device, or with PRETENDED_MPS of a Mac's, apart from kernels and memory: that it is
// there, which one is current, and its streams. Autograd and autocast are content with that. All numbers are computed
// on the CPU, by tensors.py.

#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/detail/MPSHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace at {

#ifdef PRETENDED_MPS
constexpr c10::DeviceType kKind = c10::DeviceType::MPS;
using Interface = MPSHooksInterface;
#else
constexpr c10::DeviceType kKind = c10::DeviceType::CUDA;
using Interface = CUDAHooksInterface;
#endif

struct Hooks : public Interface {
#ifdef PRETENDED_MPS
  bool hasMPS() const override { return true; }
  bool isOnMacOSorNewer(unsigned, unsigned) const override { return true; }
  void deviceSynchronize() const override {}
  void emptyCache() const override {}
#else
  explicit Hooks(CUDAHooksArgs) {}
  bool hasCUDA() const override { return true; }
  void deviceSynchronize(DeviceIndex) const override {}
#endif
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }

  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
#ifndef PRETENDED_MPS
  DeviceIndex current_device() const override { return 0; }
#endif
};

#ifdef PRETENDED_MPS
C10_REGISTER_CLASS(MPSHooksRegistry, MPSHooks, Hooks);
#else
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, Hooks);
#endif

}  // namespace at

namespace {

const c10::Device kOnly(at::kKind, 0);
const c10::Stream kStream(c10::Stream::DEFAULT, kOnly);

struct OneDevice : public c10::impl::NoOpDeviceGuardImpl<at::kKind> {
  c10::Device getDevice() const override { return kOnly; }
  c10::Device exchangeDevice(c10::Device) const override { return kOnly; }

  c10::Stream getStream(c10::Device) const noexcept override { return kStream; }
  c10::Stream getDefaultStream(c10::Device) const override { return kStream; }
  c10::Stream getNewStream(c10::Device, int) const override { return kStream; }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return kStream; }

  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
};

#ifdef PRETENDED_MPS
C10_REGISTER_GUARD_IMPL(MPS, OneDevice);
#else
C10_REGISTER_GUARD_IMPL(CUDA, OneDevice);
#endif

}  // namespace
