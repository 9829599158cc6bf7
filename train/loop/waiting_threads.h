// How the threads of the one pool wait for each other.
#pragma once

namespace ossature {

/// Lets threads that wait sleep at once instead of spinning first, for a processor that somebody else needs too: then a
/// thread that spins keeps away the one that it waits for, and steps of the embedded model took ten times as long
/// beside a compiler on two cores. The OpenMP library reads how to wait when it is loaded, before `main`, so this
/// starts the program again, as the same process and with OMP_WAIT_POLICY=passive, which takes the 0.2 s of loading
/// LibTorch twice; it returns where that or GOMP_SPINCOUNT is set already, and for commands that compute little.
void let_waiting_threads_sleep(char** argv);

}  // namespace ossature
