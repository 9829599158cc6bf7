// The renderer "harmony": OpenAI's library openai-harmony 0.0.8. Internal to data/.
#pragma once

#include <vector>

#include "data/harmony/harmony.h"
#include "data/harmony/harmony_message.h"

namespace ossature {

/// The messages of `conversation` as the library writes them, all analysis included. Conversations of the library's own
/// are written as they are; of others the system and developer messages are made first, and each of their messages
/// becomes the library's. Throws DataError where the library would refuse, or a message does not say enough.
[[nodiscard]] std::vector<HarmonyMessage> library_messages(const Conversation& conversation,
                                                           const HarmonyOptions& options);

}  // namespace ossature
