// Parts of the page of a run: what its router and its channels did, and what it answered.
#pragma once

#include <string>
#include <vector>

#include "train/run/run_history.h"
#include "train/run/sample_replies.h"

namespace ossature {

/// How tokens spread over experts: a map of layers by experts over the steps that tell, and layers in a table. "" if no
/// step tells.
[[nodiscard]] std::string router_section(const std::vector<StepMetrics>& steps);

/// The learned tokens of all steps by channel, as a table; "" if no step tells.
[[nodiscard]] std::string learned_channels(const std::vector<StepMetrics>& steps);

/// Of each prompt the first and the last reply side by side, those between folded away; "" without replies.
[[nodiscard]] std::string samples_section(const std::vector<SampleReply>& replies);

}  // namespace ossature
