// Ranks over MPI (MPI: A Message-Passing Interface Standard, version 3.1). Internal to train/ranks/ranks.cpp.
#pragma once

#include <memory>

#include "train/ranks/ranks.h"

namespace ossature {

/// nullptr where this program was built without MPI.
[[nodiscard]] std::unique_ptr<Ranks> join_mpi_ranks();

}  // namespace ossature
