// A tokenizer.json of anybody's: refused, or it encodes.
#include "tests/fuzz/fixtures.h"
#include "tests/fuzz/json_mutator.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ossature;
  static const fuzz::InputFile file(".json");
  try {
    const Tokenizer tokenizer = Tokenizer::load(file.write(fuzz::text_of(data, size)));
    for (const std::string_view text :
         {"", "Hello, world's 12345\n\n  x", "日本語 é 👋🏽", "<|start|>assistant<|end|>"}) {
      const auto ids = tokenizer.encode(text);
      fuzz::require(tokenizer.decode(ids) == text, "decoding does not give the text back");
      for (const std::int32_t id : ids) fuzz::require(id >= 0 && id < tokenizer.vocab_size(), "an id is too large");
    }
    (void)HarmonyTokens::of(tokenizer);
    const Harmony harmony(tokenizer, std::nullopt);
    Conversation conversation;
    conversation.messages.resize(2);
    conversation.messages[0].role = "user";
    conversation.messages[1].role = "assistant";
    for (Message& message : conversation.messages) message.content = "hi";
    (void)harmony.render(conversation);
  } catch (const DataError& error) {
    fuzz::check_message(error);
  }
  return 0;
}
