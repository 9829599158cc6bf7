// What `ossature --version` says: enough to know which program gave a result.
#pragma once

#include <string>

namespace ossature {

/// "ossature 0.1.0 (commit 1a2b3c4d5e6f)", then LibTorch's version, what its kernels and ours use of this processor,
/// and what carries several ranks, a line each.
[[nodiscard]] std::string version_text();

}  // namespace ossature
