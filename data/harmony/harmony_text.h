// Text that is rendered in the harmony format already. Internal to data/.
#pragma once

#include <string_view>
#include <vector>

#include "data/harmony/harmony_encoder.h"

namespace ossature {

/// The messages of `text`, tokenized as they stand. The format's special tokens are recognised by their names, what is
/// between them is ordinary text; white space after the last message is left out. Throws DataError, with the position
/// in bytes from 0, for anything that is not
///     <|start|>AUTHOR[<|channel|>CHANNEL][<|constrain|>TYPE]<|message|>CONTENT<|end|>
/// after one another, where "<|call|>" may end a message of the assistant, and "<|return|>" the last one.
[[nodiscard]] std::vector<HarmonyMessage> read_harmony_text(std::string_view text, const HarmonyEncoder& encoder);

}  // namespace ossature
