// The renderer "template": chat_template.jinja as gpt-oss checkpoints carry it. Internal to data/.
#pragma once

#include <vector>

#include "data/harmony/harmony.h"
#include "data/harmony/harmony_samples.h"

namespace ossature {

/// The messages that the template makes of `conversation`, all analysis included. Throws DataError where the template
/// would refuse or silently drop something.
[[nodiscard]] std::vector<HarmonyMessage> template_messages(const Conversation& conversation,
                                                            const HarmonyOptions& options);

/// What the template renders for training: the analysis of an answer if that is the last message, the analysis of a
/// call if no answer follows.
[[nodiscard]] Kept kept_by_template(const std::vector<HarmonyMessage>& messages);

}  // namespace ossature
