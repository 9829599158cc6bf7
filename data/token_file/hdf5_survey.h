// What the child process does (data/token_file/hdf5_process.h): opens a token file with HDF5, tells where its parts
// lie, and reads those that only HDF5 can. Internal to data/.
#pragma once

namespace ossature::hdf5 {

/// Serves the file kChildFile over kChildSocket until the parent has what it needs. `shown_path` names the file in
/// messages.
void survey(const char* shown_path);

}  // namespace ossature::hdf5
