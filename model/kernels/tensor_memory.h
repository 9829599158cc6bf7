// Where LibTorch's tensors on the CPU lie.
//
// A step makes and frees tensors of many sizes, and between them small things that stay, such as what oneDNN prepares
// for a shape. In the C library's heap those keep the holes of tensors from joining: with varied lengths it grew to 600
// MB in 200 steps of which 140 were in use. So tensors of 16 KiB to 1 GiB get a heap of their own
// (model/kernels/block_heap.h).
#pragma once

namespace ossature {

/// To be called before the first tensor is made. Does nothing under AddressSanitizer, which watches the C library's
/// heap alone.
void use_tensor_heap();

/// Pages that no tensor or other block of the program uses any more go back to the system.
void return_freed_memory();

}  // namespace ossature
