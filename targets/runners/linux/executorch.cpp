// A C interface to ExecuTorch's runtime, for runner.py: linked to the libraries of the executorch wheel, without torch.
// One input, float32 outputs: what edgevit's bundles have. Compiled by edgevit/devices/runtimes/wheels.py.

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/runtime/core/event_tracer.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

// The wheel exports this class and leaves its header out.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t count);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace {

using executorch::aten::ScalarType;
using executorch::aten::SizesType;
using executorch::extension::Module;
using executorch::extension::TensorPtr;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using namespace executorch::runtime;

std::string problem;

double now_us() {
  const auto time = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double, std::micro>(time).count();
}

// Sums what ExecuTorch reports of kernels and delegates; it times nothing inside a delegate.
class Times : public EventTracer {
 public:
  struct Row {
    std::string name;
    double us;
  };
  std::vector<Row> rows;

  void create_event_block(const char*) override {}
  EventTracerEntry start_profiling(const char* name, ChainID, DebugHandle) override {
    open_.push_back({name, now_us()});
    EventTracerEntry entry{};
    entry.event_id = static_cast<int64_t>(open_.size()) - 1;
    return entry;
  }
  void end_profiling(EventTracerEntry entry) override {
    const Row& opened = open_[entry.event_id];
    const double took = now_us() - opened.us;
    const std::string kernel = "native_call_";
    if (opened.name.rfind(kernel, 0) == 0) {
      rows.push_back({opened.name.substr(kernel.size()), took});
    } else if (opened.name == "DELEGATE_CALL") {
      rows.push_back({opened.name, took});
    }
  }
  void forget() {
    open_.clear();
  }

  EventTracerEntry start_profiling_delegate(const char*, DelegateDebugIntId) override {
    return {};
  }
  void end_profiling_delegate(EventTracerEntry, const void*, size_t) override {}
  void log_profiling_delegate(const char*, DelegateDebugIntId, et_timestamp_t, et_timestamp_t, const void*, size_t)
      override {}
  void track_allocation(AllocatorID, size_t) override {}
  AllocatorID track_allocator(const char*) override {
    return 0;
  }
  Result<bool> log_evalue(const EValue&, LoggedEValueType) override {
    return true;
  }
  Result<bool> log_intermediate_output_delegate(
      const char*, DelegateDebugIntId, const executorch::aten::Tensor&) override {
    return true;
  }
  Result<bool> log_intermediate_output_delegate(
      const char*, DelegateDebugIntId, const ArrayRef<executorch::aten::Tensor>) override {
    return true;
  }
  Result<bool> log_intermediate_output_delegate(const char*, DelegateDebugIntId, const int&) override {
    return true;
  }
  Result<bool> log_intermediate_output_delegate(const char*, DelegateDebugIntId, const bool&) override {
    return true;
  }
  Result<bool> log_intermediate_output_delegate(const char*, DelegateDebugIntId, const double&) override {
    return true;
  }
  void set_delegation_intermediate_output_filter(EventTracerFilterBase*) override {}

 private:
  std::vector<Row> open_;
};

struct Loaded {
  std::unique_ptr<Module> module;
  Times* times = nullptr;
  std::vector<SizesType> sizes;
  ScalarType kind = ScalarType::Float;
  TensorPtr input;
  std::vector<EValue> answers;
};

bool failed(Error error, const char* what) {
  if (error == Error::Ok) {
    return false;
  }
  problem = std::string(what) + ": error " + std::to_string(static_cast<int>(error));
  return true;
}

}  // namespace

extern "C" {

const char* edgevit_problem() {
  return problem.c_str();
}

void* edgevit_open(const char* path, int threads, int timed) {
  executorch::extension::threadpool::get_threadpool()->_unsafe_reset_threadpool(threads);
  auto loaded = std::make_unique<Loaded>();
  std::unique_ptr<Times> times;
  if (timed) {
    times = std::make_unique<Times>();
    loaded->times = times.get();
  }
  loaded->module =
      std::make_unique<Module>(path, Module::LoadMode::MmapUseMlockIgnoreErrors, std::move(times));
  if (failed(loaded->module->load_forward(), "loading the method forward")) {
    return nullptr;
  }
  const auto meta = loaded->module->method_meta("forward");
  if (!meta.ok() || meta->num_inputs() != 1) {
    problem = "the method forward does not take one tensor";
    return nullptr;
  }
  const auto input = meta->input_tensor_meta(0);
  if (!input.ok()) {
    problem = "the input is not a tensor";
    return nullptr;
  }
  loaded->sizes.assign(input->sizes().begin(), input->sizes().end());
  loaded->kind = input->scalar_type();
  return loaded.release();
}

long long edgevit_feed(void* handle, const void* data, size_t bytes) {
  auto* loaded = static_cast<Loaded*>(handle);
  size_t wanted = executorch::runtime::elementSize(loaded->kind);
  for (const auto size : loaded->sizes) {
    wanted *= size;
  }
  if (wanted != bytes) {
    problem = "it has " + std::to_string(bytes) + " bytes, not " + std::to_string(wanted);
    return 1;
  }
  std::vector<uint8_t> copy(bytes);
  std::memcpy(copy.data(), data, bytes);
  loaded->input = executorch::extension::make_tensor_ptr(loaded->sizes, std::move(copy), loaded->kind);
  return 0;
}

long long edgevit_run(void* handle) {
  auto* loaded = static_cast<Loaded*>(handle);
  auto answers = loaded->module->forward({EValue(loaded->input)});
  if (loaded->times != nullptr) {
    loaded->times->forget();
  }
  if (failed(answers.error(), "running the method forward")) {
    return 1;
  }
  loaded->answers = std::move(answers.get());
  return 0;
}

long long edgevit_output_count(void* handle) {
  auto* loaded = static_cast<Loaded*>(handle);
  return loaded->answers.empty() ? 0 : loaded->answers[0].toTensor().numel();
}

long long edgevit_output(void* handle, void* data, size_t bytes) {
  auto* loaded = static_cast<Loaded*>(handle);
  const auto& output = loaded->answers[0].toTensor();
  if (output.scalar_type() != ScalarType::Float || output.nbytes() != bytes) {
    problem = "its output is no float32 tensor of that size";
    return 1;
  }
  std::memcpy(data, output.const_data_ptr(), bytes);
  return 0;
}

// The times since the model was loaded as a JSON list of [name, kind, unit, microseconds].
long long edgevit_operators(void* handle, char* text, size_t size) {
  auto* loaded = static_cast<Loaded*>(handle);
  std::string json = "[";
  for (const auto& row : loaded->times->rows) {
    const bool delegate = row.name == "DELEGATE_CALL";
    const std::string kind = delegate ? "delegate" : row.name;
    char took[32];
    std::snprintf(took, sizeof took, "%.3f", row.us);
    json += (json.size() > 1 ? ",[\"" : "[\"") + kind + "\",\"" + kind + "\",\"" + (delegate ? "XNNPACK" : "CPU") +
        "\"," + took + "]";
  }
  json += "]";
  if (json.size() >= size) {
    return 1;
  }
  std::memcpy(text, json.c_str(), json.size() + 1);
  return 0;
}

}  // extern "C"
