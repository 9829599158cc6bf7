// The verification of an export, as `verify` and `export` run it.
#pragma once

#include <filesystem>

#include "train/evaluation/verification.h"

namespace ossature {

/// verify_export() on the token file `data`, with progress on stderr.
[[nodiscard]] Verification run_verification(const Checkpoint& base, const Merger& merger, const Checkpoint& exported,
                                            const std::filesystem::path& data, const VerificationOptions& options);

}  // namespace ossature
