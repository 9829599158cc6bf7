// MKL's vector functions, which LibTorch calls for exp, log, sin and cos of float32.
#pragma once

namespace ossature {

/// Calls each of them once, on one thread; only the first call of this function does anything. To be called before they
/// may run on several threads: where two threads of a process make the first call together, one of them now and then
/// gets results that are wrong by 140 units in the last place (LibTorch 2.13.0, four of 250 processes on busy
/// processors), so that a run repeated would not give the same bits.
void settle_vector_library();

}  // namespace ossature
