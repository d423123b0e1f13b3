// CUDA without a driver. With this loaded, tensors that say they are on cuda:0 or cuda:1 pass through all of PyTorch's
// C++ that asks where it is (device guards, the autograd engine, autocast) on a machine that has no GPU.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

constexpr c10::DeviceIndex kDevices = 2;
thread_local c10::DeviceIndex chosen = 0;

c10::DeviceIndex exchange(c10::DeviceIndex device) {
  const auto before = chosen;
  if (device >= 0) chosen = device;
  return before;
}

c10::Device cuda(c10::DeviceIndex index) { return {c10::DeviceType::CUDA, index}; }

struct NoDriverGuard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::DeviceType::CUDA; }
  c10::DeviceIndex deviceCount() const noexcept override { return kDevices; }
  c10::Device getDevice() const override { return cuda(chosen); }
  c10::Device exchangeDevice(c10::Device device) const override { return cuda(exchange(device.index())); }
  void setDevice(c10::Device device) const override { exchange(device.index()); }
  void uncheckedSetDevice(c10::Device device) const noexcept override { exchange(device.index()); }
  // every operation is complete when it returns, so there is one stream and events are always reached
  c10::Stream getStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, cuda(device.has_index() ? device.index() : chosen));
  }
  c10::Stream getDefaultStream(c10::Device device) const override { return getStream(device); }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override { return getStream(device); }
  c10::Stream getNewStream(c10::Device device, int) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};

struct NoDriverHooks final : at::CUDAHooksInterface {
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return kDevices; }
  c10::DeviceIndex getCurrentDevice() const override { return chosen; }
  void setCurrentDevice(c10::DeviceIndex device) const override { exchange(device); }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex device) const override { return exchange(device); }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex device) const override { return exchange(device); }
};

NoDriverGuard guard;
NoDriverHooks hooks;

struct Install {
  Install() {
    c10::impl::device_guard_impl_registry[static_cast<size_t>(c10::DeviceType::CUDA)].store(&guard);
    // PyTorch made its hooks when it was loaded and has no way to exchange them: take over their virtual table
    auto* theirs = const_cast<at::CUDAHooksInterface*>(&at::detail::getCUDAHooks());
    *reinterpret_cast<void**>(theirs) = *reinterpret_cast<void**>(&hooks);
  }
} install;

}  // namespace

extern "C" int pretend_exchange_device(int device) { return exchange(static_cast<c10::DeviceIndex>(device)); }
