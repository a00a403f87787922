// Operator schemas, and the Python module that loads them. Arguments and results are found by the
// names that stand here, in C++ (arguments.h) and in Python (ops/schemas.py).
#include <torch/extension.h>
#include <torch/library.h>
#include <torch/version.h>

TORCH_LIBRARY(pass_transfer, m) {
  m.def(
      "global_topk_mask(Tensor scores, Tensor offsets, int k, Tensor floors) -> "
      "(Tensor mask, Tensor threshold, Tensor kept, Tensor order)");
  m.def("global_topk_weights(Tensor[] scores, int k, bool magnitude) -> Tensor[] masks");
  m.def("mask_channels(Tensor x, Tensor mask) -> Tensor");
  m.def(
      "mask_channels_backward(Tensor grad, Tensor x, Tensor mask) -> "
      "(Tensor grad_x, Tensor grad_mask)");
  m.def(
      "masked_conv2d(Tensor x, Tensor weight, Tensor? bias, Tensor? in_mask, Tensor? out_mask, "
      "SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, SymInt groups, str gradient, "
      "Tensor? support, Tensor? in_margin, Tensor? out_margin) -> (Tensor y, Tensor before)");
  m.def(
      "masked_conv2d_backward(Tensor grad, Tensor x, Tensor weight, Tensor? in_mask, "
      "Tensor? out_mask, Tensor before, SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, "
      "SymInt groups, str gradient, Tensor? support, Tensor? in_margin, Tensor? out_margin, "
      "bool needs_x, bool needs_weight, bool needs_bias, bool needs_in_mask, "
      "bool needs_out_mask) -> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias, "
      "Tensor grad_in_mask, Tensor grad_out_mask)");
  m.def(
      "masked_linear(Tensor x, Tensor weight, Tensor? bias, Tensor? in_mask, Tensor? out_mask, "
      "str gradient, Tensor? support, Tensor? in_margin, Tensor? out_margin) -> Tensor y");
  m.def(
      "masked_conv_norm_act(Tensor x, Tensor? dropped, Tensor? in_mask, Tensor? in_order, "
      "Tensor weight, Tensor? bias, Tensor? norm_weight, Tensor? norm_bias, float eps, "
      "Tensor? residual, Tensor? residual_dropped, Tensor? out_order, int out_kept, "
      "int out_count, bool relu, SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, "
      "int[] pool) -> (Tensor out, Tensor out_dropped, Tensor y, Tensor mean, Tensor invstd, "
      "Tensor scale, Tensor shift, Tensor places)");
  m.def(
      "masked_conv_norm_act_backward(Tensor grad, Tensor x, Tensor? dropped, Tensor? in_mask, "
      "Tensor? in_order, Tensor weight, Tensor out, Tensor y, Tensor mean, Tensor invstd, "
      "Tensor scale, Tensor shift, Tensor places, bool added, Tensor? out_order, bool relu, "
      "SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, int[] pool, bool needs_x, "
      "bool needs_in_mask, bool needs_residual) -> "
      "(Tensor grad_x, Tensor grad_in_mask, Tensor grad_residual)");
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "Loading this module registers the operators of torch.ops.pass_transfer.";
  m.attr("torch_version") = TORCH_VERSION;
#ifdef PASS_TRANSFER_CUDA
  m.attr("cuda") = true;
#else
  m.attr("cuda") = false;
#endif
}
