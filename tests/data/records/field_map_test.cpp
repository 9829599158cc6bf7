#include "data/records/field_map.h"

#include <gtest/gtest.h>

#include "data/records/formats.h"
#include "tests/data/errors.h"

namespace ossature {
namespace {

FieldMap mapped(const std::vector<std::string>& assignments) {
  FieldMap map;
  for (const auto& assignment : assignments) map.add(assignment);
  return map;
}

TEST(FieldMap, EveryFieldHasItsNameAndItsMappedOne) {
  for (int i = 0; i <= static_cast<int>(Field::kValue); ++i) {
    const auto field = static_cast<Field>(i);
    const std::string name = FieldMap().name(field);
    EXPECT_FALSE(name.empty());
    const FieldMap map = mapped({name + "=x=y"});
    EXPECT_EQ(map.names(field), std::vector<std::string>{"x=y"}) << name;
  }
}

TEST(FieldMap, RefusesWhatMapsNothing) {
  expect_data_error([] { mapped({"messages"}); }, "\"messages\" maps no field; expected field=name");
  expect_data_error([] { mapped({"=x"}); }, "maps no field");
  expect_data_error([] { mapped({"role="}); }, "maps no field");
  expect_data_error([] { mapped({"speaker=role"}); }, "\"speaker\" is no field; expected one of messages, tools,");
  expect_data_error([] { mapped({"role=a", "role=b"}); }, "the field role is mapped to both a and b");
  expect_data_error([] { mapped({"thinking=a", "reasoning=b"}); }, "the field thinking is mapped to both a and b");
}

TEST(FieldMap, MappedFieldsAreFoundUnderThatNameAlone) {
  const FieldMap map = mapped({"messages=dialogue", "role=speaker", "content=text"});
  const std::string line =
      R"({"dialogue": [{"speaker": "user", "text": "q"}, {"speaker": "assistant", "text": "a"}], "messages": 5})";
  const auto conversation = std::get<Conversation>(parse_sample(line, {.fields = map}));
  ASSERT_EQ(conversation.messages.size(), 2u);
  EXPECT_EQ(conversation.messages[1].content, "a");
  expect_data_error([&] { (void)parse_sample(R"({"messages": []})", {.fields = map}); }, "expected \"dialogue\", ");
  expect_data_error([&] { (void)parse_sample(R"({"dialogue": [{"role": "user"}]})", {.fields = map}); },
                    "message 1: speaker is missing (found: role)");
  const auto pair =
      std::get<Conversation>(parse_sample(R"({"prompt": "q", "chosen": "a", "rejected": "b", "cot": "t", "date": "x"})",
                                          {.fields = mapped({"completion=chosen", "thinking=cot", "date=-"})}));
  EXPECT_EQ(pair.messages[1].content, "a");
  EXPECT_EQ(pair.messages[1].thinking, "t");
  EXPECT_EQ(pair.date, std::nullopt);
}

}  // namespace
}  // namespace ossature
