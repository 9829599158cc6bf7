// What `prepare` did, for people and for programs.
#pragma once

#include <string>

#include "data/prepare/prepare.h"

namespace ossature {

/// The closing tables of the files, then what was left out, changed or found strange, with the first places of each.
[[nodiscard]] std::string to_text(const PrepareSummary& summary, const PrepareOptions& options);

/// One object: "records"; "train", and "validation" where it is asked for, as `inspect` has them; "notes", an array of
/// {"kind", "count", "first"}.
[[nodiscard]] std::string to_json(const PrepareSummary& summary, const PrepareOptions& options);

}  // namespace ossature
