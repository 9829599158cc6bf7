// The processors of a machine, divided among the ranks on it.
#pragma once

#include "train/ranks/ranks.h"

namespace ossature {

/// Collective. Gives each rank of a machine as many processors as the others, neighbours together so that a rank stays
/// within a socket where it fits there, and keeps this process on its own. Ranks to which the launcher gave different
/// processors keep those, but for Open MPI's default, a core for a rank. Returns the number of this rank's processors.
int take_share_of_processors(Ranks& ranks);

}  // namespace ossature
