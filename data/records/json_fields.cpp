#include "data/records/json_fields.h"

#include <utility>

namespace ossature {

JsonFields::JsonFields(const Json& object, const FieldMap& map, std::string where)
    : object_(object), map_(map), where_(std::move(where)) {
  if (!object.is_object()) fail(describe(object) + "; expected an object");
}

const Json* JsonFields::find(Field field) const {
  const auto& names = map_.names(field);
  const Json* found = nullptr;
  const std::string* found_name = nullptr;
  for (const std::string& name : names) {
    const auto member = object_.find(name);
    if (member == object_.end() || member->is_null()) continue;
    if (found == nullptr) {
      found = &*member;
      found_name = &name;
      if (found_name == &names.front()) return found;
    } else if (*found != *member) {
      fail("both " + *found_name + " and " + name + " are given; say which is meant (--map " + names.front() + "=" +
           *found_name + ")");
    }
  }
  return found;
}

void JsonFields::refuse(Field field, const std::string& expected) const {
  for (const std::string& name : map_.names(field)) {
    const auto member = object_.find(name);
    if (member != object_.end()) fail(name + " is " + describe(*member) + "; expected " + expected);
  }
  fail(map_.name(field) + " is missing (found: " + keys_of(object_) + "); expected " + expected);
}

std::string JsonFields::text(Field field, const char* expected) const {
  const Json* value = find(field);
  if (value == nullptr || !value->is_string()) refuse(field, expected);
  return value->get<std::string>();
}

std::optional<std::string> JsonFields::optional_text(Field field) const {
  return has(field) ? std::optional(text(field)) : std::nullopt;
}

}  // namespace ossature
