#include "train/recipe/recipe.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>

#include "train/recipe/recipe_keys.h"

namespace ossature {
namespace {

const std::string kMinimal = "base_model: m\noutput_dir: o\ndata: {train: t.h5}\n";

const std::string kTrainingFiles =
    "a path, or a list of paths and {path: a path, weight: a number >= 0.001 and <= 1000}";

/// The message that reading gives, "" if it gives none.
std::string errors_of(const std::string& text, const std::vector<std::string>& overrides = {}) {
  try {
    (void)parse_recipe(text, "r.yaml", overrides);
    return "";
  } catch (const RecipeError& error) {
    return error.what();
  }
}

TEST(Recipe, MinimalHasTheDocumentedDefaults) {
  Recipe expected;
  expected.base_model = "m";
  expected.output_dir = "o";
  expected.data.train = {{"t.h5"}};
  EXPECT_EQ(parse_recipe(kMinimal, "r.yaml"), expected);
}

// Every key and default of the contract, written out, so that a default cannot change unnoticed.
TEST(Recipe, ContractReadsToDefaults) {
  const std::string contract = R"(
base_model: m
output_dir: o
device: auto                # auto | cpu | cuda
dtype: bfloat16
lora:  {r: 8, lora_alpha: 16, lora_dropout: 0.0, use_rslora: false, target_modules: [q_proj, k_proj, v_proj, o_proj],
        target_parameters: [mlp.experts.gate_up_proj, mlp.experts.down_proj], init_from: null}
data:  {train: t.h5, validation: null, sequence_length: 4096, packing: true, shuffle: true}
train: {micro_batch_size: 1, gradient_accumulation_steps: 8, epochs: 1, max_steps: null, learning_rate: 2.0e-4,
        lr_scheduler: cosine, warmup_steps: 10, min_lr_ratio: 0.1, weight_decay: 0.0, adam_beta1: 0.9, adam_beta2: 0.999,
        adam_epsilon: 1.0e-8, max_grad_norm: 1.0, max_skipped_steps: 3, recompute: auto, memory_limit: null, seed: 0}
evaluation: {every_steps: 100, early_stopping_patience: null, keep_best: false, sample_prompts: [], sample_tokens: 128}
checkpoint: {every_steps: 100, keep: 3}
)";
  EXPECT_EQ(parse_recipe(contract, "r.yaml"), parse_recipe(kMinimal, "r.yaml"));
}

TEST(Recipe, ReadsEveryKindOfValue) {
  const Recipe recipe = parse_recipe(R"(
base_model: "a b: c"
output_dir: runs/x
device: cuda
dtype: float32
lora:
  r: 4
  use_rslora: true
  target_modules:
    - q_proj
  layers_to_transform: [0, 3]
  rank_pattern: {q_proj: 2}
  alpha_pattern: {"mlp.experts": 3.5}
  init_from: old
data:
  train: &file t.h5
  validation: *file
train:
  recompute: on
  max_steps: 100
  threads: 2
evaluation: {every_steps: ~}
)",
                                     "r.yaml");
  EXPECT_EQ(recipe.base_model, "a b: c");
  EXPECT_EQ(recipe.device, Device::kCuda);
  EXPECT_EQ(recipe.dtype, ComputeDtype::kFloat32);
  EXPECT_EQ(recipe.lora.r, 4);
  EXPECT_TRUE(recipe.lora.use_rslora);
  EXPECT_EQ(recipe.lora.target_modules, std::vector<std::string>{"q_proj"});
  EXPECT_EQ(recipe.lora.layers_to_transform, (std::vector<std::int64_t>{0, 3}));
  EXPECT_EQ(recipe.lora.rank_pattern.at("q_proj"), 2);
  EXPECT_EQ(recipe.lora.alpha_pattern.at("mlp.experts"), 3.5);
  EXPECT_EQ(recipe.lora.init_from, "old");
  EXPECT_EQ(recipe.data.validation, "t.h5");
  EXPECT_EQ(recipe.train.recompute, Recompute::kOn);
  EXPECT_EQ(recipe.train.max_steps, 100);
  EXPECT_EQ(recipe.train.threads, 2);
  EXPECT_EQ(recipe.evaluation.every_steps, std::nullopt);
}

TEST(Recipe, OverridesWinAndTheLastOneDoes) {
  const std::vector<std::string> overrides = {"train.learning_rate=1e-4",     "train.learning_rate=3e-5",
                                              "lora.target_modules=[q_proj]", "data.validation=v.h5",
                                              "evaluation.every_steps=null",  "data.train=a=b.h5"};
  const Recipe recipe = parse_recipe(kMinimal, "r.yaml", overrides);
  EXPECT_EQ(recipe.train.learning_rate, 3e-5);
  EXPECT_EQ(recipe.lora.target_modules, std::vector<std::string>{"q_proj"});
  EXPECT_EQ(recipe.data.validation, "v.h5");
  EXPECT_EQ(recipe.evaluation.every_steps, std::nullopt);
  EXPECT_EQ(recipe.data.train, (std::vector<TrainingFile>{{"a=b.h5"}}));
}

TEST(Recipe, TrainingFilesAreAPathOrAList) {
  const auto files = [](const std::string& value) {
    return parse_recipe("base_model: m\noutput_dir: o\ndata: {train: " + value + "}\n", "r.yaml").data.train;
  };
  using Files = std::vector<TrainingFile>;
  EXPECT_EQ(files("a.h5"), (Files{{"a.h5", 1.0}}));
  EXPECT_EQ(files("[a.h5]"), (Files{{"a.h5", 1.0}}));
  EXPECT_EQ(files("[a.h5, {path: b.h5, weight: 2.0}, {weight: 0.5, path: c.h5}, {path: d.h5}]"),
            (Files{{"a.h5", 1.0}, {"b.h5", 2.0}, {"c.h5", 0.5}, {"d.h5", 1.0}}));
  const std::vector<std::string> overrides = {"data.train=[{path: x.h5, weight: 3}]"};
  EXPECT_EQ(parse_recipe(kMinimal, "r.yaml", overrides).data.train, (Files{{"x.h5", 3.0}}));
}

TEST(Recipe, TrainingFilesErrorsNameTheirPlace) {
  const auto message = [](const std::string& items) {
    return errors_of("base_model: m\noutput_dir: o\ndata:\n  train:\n" + items);
  };
  const std::string expected = "; expected " + kTrainingFiles;
  EXPECT_EQ(message("  - a.h5\n  - {path: b.h5, weight: -1}\n"), "r.yaml:6:26: data.train holds \"-1\"" + expected);
  EXPECT_EQ(message("  - {path: b.h5, weight: 0}\n"), "r.yaml:5:26: data.train holds \"0\"" + expected);
  EXPECT_EQ(message("  - {path: b.h5, wieght: 1}\n"), "r.yaml:5:18: data.train holds \"wieght\"" + expected);
  EXPECT_EQ(message("  - {weight: 1}\n"), "r.yaml:5:5: data.train holds a map" + expected);
  EXPECT_EQ(message("  - {path: a.h5, path: b.h5}\n"), "r.yaml:5:18: data.train holds \"path\"" + expected);
  EXPECT_EQ(message("  - [a.h5]\n"), "r.yaml:5:5: data.train holds a list" + expected);
  EXPECT_EQ(message("    []\n"), "r.yaml:5:5: data.train is an empty list" + expected);
  EXPECT_EQ(message("    {path: a.h5}\n"), "r.yaml:5:5: data.train is a map" + expected);
  EXPECT_EQ(message("  - a.h5\n  - {path: a.h5, weight: 2}\n"),
            "r.yaml:5:3: data.train names a.h5 twice; expected it once, with a weight");
  EXPECT_EQ(errors_of(kMinimal, {"data.train=[{path: 1, weight: x}]"}),
            "argument \"data.train=[{path: 1, weight: x}]\": data.train holds \"x\"" + expected);
}

TEST(Recipe, OverridesSupplyRequiredKeys) {
  EXPECT_EQ(errors_of("output_dir: o\n", {"base_model=m", "data.train=t.h5"}), "");
}

TEST(Recipe, ReportsEverythingAtOnce) {
  EXPECT_EQ(errors_of("base_model: m\n"
                      "lora: {r: 0, lora_dropout: 1}\n"
                      "data:\n"
                      "  trian: t.h5\n"
                      "train:\n"
                      "  learnin_rate: 1e-4\n"
                      "  seed: 1\n"
                      "  seed: 2\n"
                      "  epochs: abc\n",
                      {"train.max_steps=-1", "keep=1", "foo"}),
            "r.yaml:2:11: lora.r is \"0\"; expected an integer >= 1 and <= 4096\n"
            "r.yaml:2:28: lora.lora_dropout is \"1\"; expected a number >= 0 and < 1\n"
            "r.yaml:4:3: unknown key \"data.trian\"; did you mean data.train?\n"
            "r.yaml:6:3: unknown key \"train.learnin_rate\"; did you mean train.learning_rate?\n"
            "r.yaml:8:3: train.seed is given twice, first in line 7; keep one\n"
            "r.yaml:9:11: train.epochs is \"abc\"; expected a number > 0 and <= 10000\n"
            "argument \"train.max_steps=-1\": train.max_steps is \"-1\"; expected an integer >= 1, or null\n"
            "argument \"keep=1\": unknown key \"keep\"; did you mean checkpoint.keep?\n"
            "argument \"foo\": no value; expected key=value, for example train.max_steps=100\n"
            "r.yaml: missing key output_dir; expected a path\n"
            "r.yaml: missing key data.train; expected " +
                kTrainingFiles);
}

struct BadRecipe {
  std::string text;
  std::string message;  // the whole of it
};

class RecipeErrors : public testing::TestWithParam<BadRecipe> {};

TEST_P(RecipeErrors, Message) {
  EXPECT_EQ(errors_of(kMinimal + GetParam().text), GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    Values, RecipeErrors,
    testing::Values(
        BadRecipe{"device: gpu\n", "r.yaml:4:9: device is \"gpu\"; expected auto | cpu | cuda"},
        BadRecipe{"train: {seed: 1.5}\n", "r.yaml:4:15: train.seed is \"1.5\"; expected an integer >= 0"},
        BadRecipe{"train: {seed: \"1\"}\n", "r.yaml:4:15: train.seed is the text \"1\"; expected an integer >= 0"},
        BadRecipe{"train: {seed: 99999999999999999999}\n",
                  "r.yaml:4:15: train.seed is \"99999999999999999999\"; expected an integer >= 0"},
        BadRecipe{"train: {seed: null}\n", "r.yaml:4:15: train.seed is null; expected an integer >= 0"},
        BadRecipe{"train: {weight_decay: .inf}\n",
                  "r.yaml:4:23: train.weight_decay is \".inf\"; expected a number >= 0"},
        BadRecipe{"train: {weight_decay: inf}\n", "r.yaml:4:23: train.weight_decay is \"inf\"; expected a number >= 0"},
        BadRecipe{"train: {weight_decay: nan}\n", "r.yaml:4:23: train.weight_decay is \"nan\"; expected a number >= 0"},
        BadRecipe{"train: {weight_decay: 1e999}\n",
                  "r.yaml:4:23: train.weight_decay is \"1e999\"; expected a number >= 0"},
        BadRecipe{"train: {learning_rate: 0}\n",
                  "r.yaml:4:24: train.learning_rate is \"0\"; expected a number > 0 and <= 1"},
        BadRecipe{"train: {learning_rate: [1]}\n",
                  "r.yaml:4:24: train.learning_rate is a list; expected a number > 0 and <= 1"},
        BadRecipe{"lora: {use_rslora: yes}\n", "r.yaml:4:20: lora.use_rslora is \"yes\"; expected true | false"},
        BadRecipe{"lora: {target_modules: q_proj}\n",
                  "r.yaml:4:24: lora.target_modules is \"q_proj\"; expected a list, each a text"},
        BadRecipe{"lora: {target_modules: [q_proj, ~]}\n",
                  "r.yaml:4:33: lora.target_modules holds null; expected a list, each a text"},
        BadRecipe{"lora: {layers_to_transform: [0, -1]}\n",
                  "r.yaml:4:33: lora.layers_to_transform holds \"-1\"; expected a list, each an integer >= 0"},
        BadRecipe{"lora: {rank_pattern: {q_proj: 2, q_proj: 3}}\n",
                  "r.yaml:4:34: lora.rank_pattern holds \"q_proj\"; expected a map from names, each value an integer "
                  ">= 1 and "
                  "<= 4096"}));

INSTANTIATE_TEST_SUITE_P(
    Keys, RecipeErrors,
    testing::Values(
        BadRecipe{"learning_rate: 1\n", "r.yaml:4:1: unknown key \"learning_rate\"; did you mean train.learning_rate?"},
        BadRecipe{"trian: {seed: 1}\n", "r.yaml:4:1: unknown key \"trian\"; did you mean train?"},
        BadRecipe{
            "wandb: {seed: 1}\n",
            "r.yaml:4:1: unknown key \"wandb\"; expected one of base_model, output_dir, device, dtype, lora, data, "
            "train, evaluation, checkpoint"},
        BadRecipe{"train.seed: 1\n",
                  "r.yaml:4:1: unknown key \"train.seed\"; expected the key seed inside the section train"},
        BadRecipe{"checkpoint: {zzz: 1}\n",
                  "r.yaml:4:14: unknown key \"checkpoint.zzz\"; expected one of every_steps, keep"},
        BadRecipe{
            "train: 3\n",
            "r.yaml:4:8: train is \"3\"; expected a map with the keys mode, micro_batch_size, "
            "gradient_accumulation_steps, epochs, max_steps, learning_rate, lr_scheduler, warmup_steps, min_lr_ratio, "
            "weight_decay, adam_beta1, adam_beta2, adam_epsilon, optimizer_state, max_grad_norm, "
            "max_skipped_steps, recompute, "
            "memory_limit, mxfp4_finish_steps, seed, threads, pipeline_stages"},
        BadRecipe{"train: {<<: {seed: 1}}\n", "r.yaml:4:9: a YAML merge key; recipes do not merge: write the keys out"},
        BadRecipe{"[a]: 1\n",
                  "r.yaml:4:1: a key is a list; expected one of base_model, output_dir, device, dtype, lora, "
                  "data, train, evaluation, checkpoint"},
        BadRecipe{"base_model: n\n", "r.yaml:4:1: base_model is given twice, first in line 1; keep one"}));

INSTANTIATE_TEST_SUITE_P(
    CrossField, RecipeErrors,
    testing::Values(
        BadRecipe{
            "lora: {target_modules: [], target_parameters: []}\n",
            "r.yaml:4:24: lora.target_modules and lora.target_parameters are both empty; expected something to train"},
        BadRecipe{"train: {warmup_steps: 5, max_steps: 4}\n",
                  "r.yaml:4:23: train.warmup_steps is 5; expected no more than train.max_steps, which is 4"},
        BadRecipe{"train: {mode: full}\nlora: {r: 8}\n",
                  "r.yaml:5:11: lora.r has no effect with train.mode: full; remove one of them"},
        BadRecipe{
            "train: {mxfp4_finish_steps: 5}\n",
            "r.yaml:4:29: train.mxfp4_finish_steps is set; expected 0 unless train.mode is full (an adapter leaves the "
            "base as it is)"},
        BadRecipe{"train: {mode: full, max_steps: 20, mxfp4_finish_steps: 21}\n",
                  "r.yaml:4:56: train.mxfp4_finish_steps is 21; expected no more than train.max_steps, which is 20"},
        BadRecipe{"evaluation: {keep_best: true}\n",
                  "r.yaml:4:25: evaluation.keep_best is true; expected data.validation to judge by"},
        BadRecipe{"evaluation: {early_stopping_patience: 2}\n",
                  "r.yaml:4:39: evaluation.early_stopping_patience is set; expected data.validation to judge by"},
        // The broken value is reported, not the disagreement that would follow from its default.
        BadRecipe{"train: {warmup_steps: x, max_steps: 4}\n",
                  "r.yaml:4:23: train.warmup_steps is \"x\"; expected an integer >= 0"}));

TEST(Recipe, OutputMayNotBeTheBase) {
  EXPECT_EQ(errors_of("base_model: m\noutput_dir: m\ndata: {train: t}\n"),
            "r.yaml:2:13: output_dir is base_model; expected a folder of its own");
}

TEST(Recipe, SyntaxErrorsNameTheirPlace) {
  EXPECT_TRUE(errors_of("base_model: [m\noutput_dir: o\n").starts_with("r.yaml:2:")) << errors_of("base_model: [m\n");
  EXPECT_TRUE(errors_of("a: b: c\n").starts_with("r.yaml:1:")) << errors_of("a: b: c\n");
  EXPECT_EQ(errors_of("- a\n"),
            "r.yaml:1:1: the recipe is a list; expected a map with the keys base_model, output_dir, "
            "device, dtype, lora, data, train, evaluation, checkpoint");
  EXPECT_EQ(errors_of(kMinimal + "---\nx: 1\n"), "r.yaml:5:1: not YAML here: a second document; a recipe is one");
  EXPECT_EQ(errors_of(std::string("a: \n\0", 5)), "r.yaml:2:1: not YAML here: a zero byte; expected YAML text");
}

TEST(Recipe, EmptyFileNamesWhatIsMissing) {
  EXPECT_EQ(errors_of("# nothing\n"),
            "r.yaml: missing key base_model; expected a path\n"
            "r.yaml: missing key output_dir; expected a path\n"
            "r.yaml: missing key data.train; expected " +
                kTrainingFiles);
}

TEST(Recipe, SurvivesHostileYaml) {
  EXPECT_NE(errors_of("a: &a [*a]\n"), "");
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 20; ++i) {
    const std::string previous = "*a" + std::to_string(i - 1);
    bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [";
    for (int j = 0; j < 10; ++j) bomb += (j == 0 ? "" : ", ") + previous;
    bomb += "]\n";
  }
  EXPECT_NE(errors_of(bomb), "");
  EXPECT_NE(errors_of(std::string(100'000, '[')), "");
  EXPECT_NE(errors_of(std::string(100'000, '{')), "");
  EXPECT_NE(errors_of("train: {seed: " + std::string(100'000, '9') + "}"), "");
}

// Bytes of a valid recipe changed at random: an error or a recipe, never a crash. A recipe that is read writes itself
// back.
TEST(Recipe, SurvivesRandomDamage) {
  Recipe recipe = parse_recipe(kMinimal, "r.yaml");
  recipe.lora.rank_pattern["q_proj"] = 3;
  const std::string good = to_yaml(recipe);
  std::mt19937 random(1);
  for (int i = 0; i < 2000; ++i) {
    std::string text = good;
    for (int change = 0; change < 3; ++change) text[random() % text.size()] = static_cast<char>(random() % 256);
    try {
      const Recipe read = parse_recipe(text, "r.yaml");
      EXPECT_EQ(parse_recipe(to_yaml(read), "w.yaml"), read) << to_yaml(read);
    } catch (const RecipeError& error) {
      EXPECT_STRNE(error.what(), "");
    }
  }
}

TEST(Recipe, RoundTripsEveryKeyToTheLastBit) {
  Recipe recipe;
  recipe.base_model = "with space/\"quotes\"\\ and # and: \xc3\xa9\n";
  recipe.output_dir = "null";
  recipe.device = Device::kCpu;
  recipe.dtype = ComputeDtype::kFloat32;
  recipe.lora = {.r = 3,
                 .lora_alpha = 1.0 / 3,
                 .lora_dropout = 0.1 + 0.2,
                 .use_rslora = true,
                 .target_modules = {"q_proj", "yes", "[x", "- y", "*z"},
                 .target_parameters = {},
                 .layers_to_transform = {1, 5},
                 .rank_pattern = {{"a: b", 3}, {"c", 4}},
                 .alpha_pattern = {{"{d", 5e-324}},
                 .init_from = "0"};
  recipe.data = {.train = {{"1e5"}}, .validation = "~", .sequence_length = 7, .packing = false, .shuffle = false};
  recipe.train.epochs = 0.1;
  recipe.train.max_steps = 9'000'000'000;
  recipe.train.learning_rate = std::nextafter(1e-4, 1);
  recipe.train.lr_scheduler = LrScheduler::kLinear;
  recipe.train.weight_decay = std::numeric_limits<double>::max();
  recipe.train.optimizer_state = OptimizerState::k8Bit;
  recipe.train.recompute = Recompute::kOff;
  recipe.train.seed = std::numeric_limits<std::int64_t>::max();
  recipe.train.threads = 3;
  recipe.evaluation = {std::nullopt, std::nullopt, true, {"Who?", "a: b\n# \"c\""}, 7};
  recipe.checkpoint = {.every_steps = std::nullopt, .keep = 1};
  EXPECT_EQ(parse_recipe(to_yaml(recipe), "r.yaml"), recipe) << to_yaml(recipe);

  recipe.data.train = {{"a.h5", 2.0}, {"b c.h5"}, {"-", 0.1 + 0.2}};
  recipe.data.num_workers = 3;
  EXPECT_EQ(parse_recipe(to_yaml(recipe), "r.yaml"), recipe) << to_yaml(recipe);

  Recipe full =
      parse_recipe(kMinimal, "r.yaml", std::vector<std::string>{"train.mode=full", "train.mxfp4_finish_steps=5"});
  EXPECT_EQ(parse_recipe(to_yaml(full), "r.yaml"), full) << to_yaml(full);
}

TEST(Recipe, MissingFileAndDirectoryAreRecipeErrors) {
  EXPECT_THROW((void)read_recipe("no/such/recipe.yaml"), RecipeError);
  EXPECT_THROW((void)read_recipe(std::filesystem::temp_directory_path()), RecipeError);
}

// The recipes that come with the program parse, are valid and write themselves back.
TEST(Recipe, ShippedRecipesAreValid) {
  for (const auto& entry : std::filesystem::recursive_directory_iterator(OSSATURE_SOURCE_DIR "/recipes")) {
    if (entry.path().extension() != ".yaml") continue;
    SCOPED_TRACE(entry.path());
    const Recipe recipe = read_recipe(entry.path());
    EXPECT_EQ(parse_recipe(to_yaml(recipe), "r.yaml"), recipe);
  }
}

TEST(RecipeKeys, EachIsDocumentedOnceAndWritesWhatItReads) {
  std::map<std::string, int> seen;
  const Recipe defaults = parse_recipe(kMinimal, "r.yaml");
  for (const RecipeKey& key : recipe_keys()) {
    EXPECT_EQ(++seen[key.path], 1) << key.path;
    EXPECT_FALSE(key.doc.empty() || key.doc.ends_with('.')) << key.path;
    Recipe read = defaults;
    EXPECT_TRUE(key.set(parse_yaml(key.get(defaults)), read)) << key.path << ": " << key.get(defaults);
    EXPECT_EQ(read, defaults) << key.path;
  }
}

TEST(RecipeKeys, NearestKey) {
  EXPECT_EQ(nearest_recipe_key("train.lerning_rate"), "train.learning_rate");
  EXPECT_EQ(nearest_recipe_key("lora.learning_rate"), "train.learning_rate");
  EXPECT_EQ(nearest_recipe_key("sequence_lenght"), "data.sequence_length");
  EXPECT_EQ(nearest_recipe_key("evaluation.keep"), "checkpoint.keep");
  EXPECT_EQ(nearest_recipe_key("lora.R"), "");
  EXPECT_EQ(nearest_recipe_key("quantum_flux"), "");
}

}  // namespace
}  // namespace ossature
