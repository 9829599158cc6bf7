// Recipes that people get wrong: each error names line and column and says what to do, and a file's errors come at
// once.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "train/recipe/recipe.h"

namespace ossature {
namespace {

struct WrongRecipe {
  const char* name;
  std::string text;
  std::string place;                  // "line:column" of the first error; "" where a key is missing
  std::vector<std::string> mentions;  // what was found and the way out
};

/// Lines 1 to 3 are right.
const std::string kRight = "base_model: m\noutput_dir: o\ndata: {train: t.h5}\n";

std::string chain_of_aliases() {
  std::string text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 9; ++i) {
    const std::string alias = "*a" + std::to_string(i - 1);
    text += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [";
    for (int j = 0; j < 10; ++j) text += (j == 0 ? "" : ", ") + alias;
    text += "]\n";
  }
  return text;
}

std::vector<WrongRecipe> wrong_recipes() {
  const std::string way_out = "expected lines of `key: value` that are indented by spaces";
  return {
      {"MisspeltKey",
       "train:\n  lerning_rate: 1\n",
       "5:3",
       {"train.lerning_rate", "did you mean train.learning_rate?"}},
      {"MisspeltSection", "trian: {seed: 1}\n", "4:1", {"\"trian\"", "did you mean train?"}},
      {"MisspeltTopLevelKey", "dtyp: float32\n", "4:1", {"\"dtyp\"", "did you mean dtype?"}},
      {"KeyOfAnotherSection", "lora: {keep: 2}\n", "4:8", {"lora.keep", "did you mean checkpoint.keep?"}},
      {"KeyWithoutItsSection", "warmup_steps: 1\n", "4:1", {"did you mean train.warmup_steps?"}},
      {"DottedKey", "train.seed: 1\n", "4:1", {"expected the key seed inside the section train"}},
      {"KeyOfAnotherProgram", "wandb_project: x\n", "4:1", {"\"wandb_project\"", "expected one of base_model"}},
      {"CapitalKey", "checkpoint: {KEEP_ALL: 1}\n", "4:14", {"KEEP_ALL", "expected one of every_steps, keep"}},
      {"DuplicateKey", "train:\n  seed: 1\n  seed: 1\n", "6:3", {"given twice, first in line 5", "keep one"}},
      {"DuplicateSection", "data: {packing: true}\n", "4:1", {"data is given twice, first in line 3", "keep one"}},
      {"DuplicateInPattern",
       "lora: {rank_pattern: {q_proj: 2, q_proj: 3}}\n",
       "4:34",
       {"\"q_proj\"", "expected a map"}},
      {"TextForNumber", "train: {epochs: three}\n", "4:17", {"\"three\"", "expected a number > 0"}},
      {"QuotedNumber", "train: {seed: \"1\"}\n", "4:15", {"the text \"1\"", "expected an integer >= 0"}},
      {"FractionForInteger", "lora: {r: 8.5}\n", "4:11", {"\"8.5\"", "expected an integer >= 1"}},
      {"ExponentForInteger", "train: {max_steps: 1e3}\n", "4:20", {"\"1e3\"", "expected an integer >= 1, or null"}},
      {"ThousandsSeparator", "train: {max_steps: 1_000}\n", "4:20", {"\"1_000\"", "expected an integer"}},
      {"DecimalComma", "train:\n  learning_rate: 0,0002\n", "5:18", {"\"0,0002\"", "expected a number > 0"}},
      {"UnitOnNumber", "train: {memory_limit: 24GB}\n", "4:23", {"\"24GB\"", "expected a number > 0, or null"}},
      {"YesForTrue", "lora: {use_rslora: yes}\n", "4:20", {"\"yes\"", "expected true | false"}},
      {"OnForTrue", "lora: {use_rslora: on}\n", "4:20", {"\"on\"", "expected true | false"}},
      {"NumberForBoolean", "lora: {use_rslora: 1}\n", "4:20", {"\"1\"", "expected true | false"}},
      {"ListForNumber", "train: {learning_rate: [1.0e-4]}\n", "4:24", {"is a list", "expected a number"}},
      {"MapForNumber", "train: {learning_rate: {max: 1.0e-4}}\n", "4:24", {"is a map", "expected a number"}},
      {"TextForList", "lora: {target_modules: q_proj}\n", "4:24", {"\"q_proj\"", "expected a list, each a text"}},
      {"NullInList", "lora: {target_modules: [q_proj, ~]}\n", "4:33", {"holds null", "expected a list, each a text"}},
      {"NullForRequired", "train: {seed: null}\n", "4:15", {"is null", "expected an integer"}},
      {"NumberForSection", "train: 3\n", "4:8", {"train is \"3\"", "expected a map with the keys mode"}},
      {"ListForSection", "train:\n  - seed: 1\n", "5:3", {"train is a list", "expected a map with the keys mode"}},
      {"NoSuchDevice", "device: gpu\n", "4:9", {"\"gpu\"", "expected auto | cpu | cuda"}},
      {"NoSuchDtype", "dtype: fp16\n", "4:8", {"\"fp16\"", "expected bfloat16 | float32"}},
      {"NoSuchScheduler", "train: {lr_scheduler: Cosine}\n", "4:23", {"\"Cosine\"", "constant | linear | cosine"}},
      {"Zero", "train: {micro_batch_size: 0}\n", "4:27", {"\"0\"", "expected an integer >= 1"}},
      {"Negative", "lora: {layers_to_transform: [0, -1]}\n", "4:33", {"\"-1\"", "each an integer >= 0"}},
      {"RateAboveOne", "train: {learning_rate: 2}\n", "4:24", {"\"2\"", "expected a number > 0 and <= 1"}},
      {"DropoutOfOne", "lora: {lora_dropout: 1.0}\n", "4:22", {"\"1.0\"", "expected a number >= 0 and < 1"}},
      {"NotANumber", "train: {weight_decay: .nan}\n", "4:23", {"\".nan\"", "expected a number >= 0"}},
      {"BeyondSixtyFourBits", "train: {seed: 99999999999999999999}\n", "4:15", {"expected an integer >= 0"}},
      {"HugeNumber", "train: {seed: " + std::string(100'000, '9') + "}\n", "4:15", {"...", "expected an integer >= 0"}},
      {"WarmupBeyondTheEnd", "train: {warmup_steps: 5, max_steps: 4}\n", "4:23", {"no more than train.max_steps"}},
      {"NothingToTrain",
       "lora: {target_modules: [], target_parameters: []}\n",
       "4:24",
       {"expected something to train"}},
      {"PatienceWithoutData", "evaluation: {early_stopping_patience: 2}\n", "4:39", {"expected data.validation"}},
      {"LoraInFullMode", "train: {mode: full}\nlora: {r: 8}\n", "5:11", {"no effect", "remove one of them"}},
      {"FinishOfAnAdapter", "train: {mxfp4_finish_steps: 5}\n", "4:29", {"expected 0 unless train.mode is full"}},
      {"TabIndentation", "train:\n\tseed: 1\n", "5:6", {"not YAML here", "begins with a tab: use spaces"}},
      {"UnevenIndentation", "train:\n  seed: 1\n   epochs: 2\n", "6:10", {"not YAML here", way_out}},
      {"TooLittleIndentation", "train:\n   seed: 1\n  epochs: 2\n", "6:3", {"not YAML here", way_out}},
      {"NoIndentation", "train:\nseed: 1\n", "5:1", {"unknown key \"seed\"", "did you mean train.seed?"}},
      {"UnclosedBracket", "lora: {target_modules: [q_proj\n", "5:1", {"not YAML here", way_out}},
      {"UnclosedQuote", "device: \"cpu\n", "4:9", {"a quote begins here and is not closed"}},
      {"UnclosedSingleQuote", "train:\n  init_adapter: 'runs/a\n  seed: 1", "5:17", {"expected the same quote at"}},
      {"TwoColons", "device: cpu: 1\n", "4:12", {"not YAML here", way_out}},
      {"SecondDocument", "---\ndevice: cpu\n", "5:1", {"a second document; a recipe is one"}},
      {"ZeroByte", std::string("device: c\0u\n", 12), "4:1", {"a zero byte; expected YAML text"}},
      {"UnknownAlias", "device: *cpu\n", "4:9", {"not YAML here", way_out}},
      {"MergeKey", "train: {<<: {seed: 1}}\n", "4:9", {"a YAML merge key", "write the keys out"}},
      {"AliasesOfAliases", chain_of_aliases(), "4:31", {"repeat too often", "expected sections with keys"}},
      {"TooDeep", "train: " + std::string(50, '[') + std::string(50, ']') + "\n", "4:16", {"nest too deep"}},
      {"FarTooDeep", "train: " + std::string(100'000, '['), "4:", {"not YAML here", "expected"}},
      {"ListAsKey", "[train]: 1\n", "4:1", {"a key is a list", "expected one of base_model"}},
  };
}

std::string errors_of(const std::string& text) {
  try {
    (void)parse_recipe(text, "r.yaml");
    return "";
  } catch (const RecipeError& error) {
    return error.what();
  }
}

TEST(WrongRecipes, EachNamesItsPlaceAndAWayOut) {
  ASSERT_GE(wrong_recipes().size(), 40U);
  for (const WrongRecipe& wrong : wrong_recipes()) {
    SCOPED_TRACE(wrong.name);
    const std::string errors = errors_of(kRight + wrong.text);
    EXPECT_TRUE(errors.starts_with("r.yaml:" + wrong.place)) << errors.substr(0, 400);
    for (const std::string& mention : wrong.mentions)
      EXPECT_NE(errors.find(mention), std::string::npos) << mention << " is not in\n" << errors.substr(0, 400);
    EXPECT_LT(errors.size(), 2000U);
  }
}

// Seventeen errors of keys and values in one file are seventeen lines, in the order of the file.
TEST(WrongRecipes, AllOfAFileAtOnce) {
  const std::string text =
      "base_model: [m]\n"
      "output_dri: o\n"
      "device: gpu\n"
      "dtype: fp8\n"
      "lora:\n"
      "  r: 0\n"
      "  alpha: 16\n"
      "  lora_dropout: 1\n"
      "  target_modules: [~]\n"
      "data:\n"
      "  trian: t.h5\n"
      "  packing: 1\n"
      "train:\n"
      "  seed: x\n"
      "  seed: 2\n"
      "  epochs: -1\n"
      "  learning_rate: 1e9\n"
      "evaluation: 5\n"
      "checkpoint: {every_steps: 0}\n"
      "wandb: true\n";
  const std::string errors = errors_of(text);
  int last = 0, found = 0;
  for (std::size_t at = errors.find("r.yaml:"); at != std::string::npos; at = errors.find("\nr.yaml:", at)) {
    at += errors[at] == '\n' ? 8 : 7;
    if (errors[at] == ' ') continue;  // a missing key has no place
    const int line = std::stoi(errors.substr(at));
    EXPECT_GT(line, last) << errors;
    last = line;
    ++found;
  }
  EXPECT_EQ(found, 17) << errors;
  EXPECT_NE(errors.find("missing key data.train"), std::string::npos) << errors;
}

}  // namespace
}  // namespace ossature
