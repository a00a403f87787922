// Arguments and results of the registered operators, by the names that their schemas give them
// (library.cpp). An operator gathers its arguments into a struct once; nothing depends on their
// order.
#pragma once

#include "common.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace pass_transfer {

using OptionalTensor = std::optional<Tensor>;

class Arguments {
 public:
  Arguments(const c10::FunctionSchema& schema, const torch::jit::Stack& stack)
      : schema_(schema), values_(torch::jit::last(stack, schema.arguments().size())) {}

  Tensor tensor(std::string_view name) const { return value(name).toTensor(); }
  OptionalTensor optional(std::string_view name) const { return value(name).toOptional<Tensor>(); }
  int64_t integer(std::string_view name) const { return value(name).toSymInt().expect_int(); }
  double number(std::string_view name) const { return value(name).toDouble(); }
  bool flag(std::string_view name) const { return value(name).toBool(); }
  std::string word(std::string_view name) const { return value(name).toStringRef(); }

  std::vector<int64_t> integers(std::string_view name) const {
    std::vector<int64_t> found;
    for (const c10::SymInt& number : value(name).toSymIntVector())
      found.push_back(number.expect_int());
    return found;
  }

 private:
  const c10::IValue& value(std::string_view name) const {
    const auto& arguments = schema_.arguments();
    for (size_t i = 0; i < arguments.size(); ++i)
      if (arguments[i].name() == name) return values_[i];
    TORCH_INTERNAL_ASSERT(false, schema_.name(), " has no argument ", std::string(name));
  }

  const c10::FunctionSchema& schema_;
  c10::ArrayRef<c10::IValue> values_;
};

// What an operator returns, by the names in its schema.
using Results = std::vector<std::pair<std::string_view, Tensor>>;

inline const Tensor& result(const Results& results, const std::string& name) {
  for (const auto& [known, tensor] : results)
    if (known == name) return tensor;
  TORCH_INTERNAL_ASSERT(false, "there is no result ", name);
}

// An operator as the dispatcher calls it.
// Its arguments are taken off the stack, its results put there.
template <Results (*RUN)(const Arguments&)>
void boxed(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const c10::FunctionSchema& schema = op.schema();
  const Results results = RUN(Arguments(schema, *stack));
  torch::jit::drop(*stack, schema.arguments().size());
  for (const c10::Argument& returned : schema.returns())
    torch::jit::push(*stack, result(results, returned.name()));
}

}  // namespace pass_transfer
