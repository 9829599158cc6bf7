// A token file of anybody's, read whole. HDF5 opens it in a child process, so what crashes there is an error here.
#include "data/prepare/statistics.h"
#include "data/token_file/token_file.h"
#include "tests/fuzz/fixtures.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ossature;
  static const fuzz::InputFile input(".h5");
  try {
    const TokenFileReader file(input.write(fuzz::text_of(data, size)));
    const auto offsets = file.sample_offsets();
    fuzz::require(static_cast<std::int64_t>(offsets.size()) == file.num_samples() + 1, "offsets are not S + 1");
    TokenStatistics statistics(HarmonyTokens::of(fuzz::tokenizer()));
    std::vector<std::int32_t> tokens;
    std::vector<float> weights;
    for (std::int64_t s = 0; s < std::min<std::int64_t>(file.num_samples(), 100); ++s) {
      const std::int64_t begin = offsets[static_cast<std::size_t>(s)];
      const std::int64_t end = offsets[static_cast<std::size_t>(s) + 1];
      fuzz::require(0 <= begin && begin <= end && end <= file.num_tokens(), "offsets are not in order");
      tokens.resize(static_cast<std::size_t>(end - begin));
      weights.resize(tokens.size());
      file.read_tokens(begin, tokens);
      file.read_loss_weights(begin, weights);
      for (const std::int32_t id : tokens) fuzz::require(id >= 0 && id < file.vocab_size(), "an id is too large");
      for (const float weight : weights) fuzz::require(std::isfinite(weight) && weight >= 0.0f, "a weight is wrong");
      (void)file.sample_source(s);
      statistics.add(tokens, weights);
    }
    file.verify();
    (void)file.fingerprint();
  } catch (const DataError& error) {
    fuzz::check_message(error);
  }
  return 0;
}
