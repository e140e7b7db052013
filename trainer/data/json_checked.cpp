#include "trainer/data/json_checked.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <string_view>

namespace nwc {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxDepth = 64;
constexpr size_t kMaxValues = size_t{1} << 22;

// Builds the document from parser events. The library's own tree builder keeps the last of two equal keys, which would
// let two readers of one file see two different files; and it has no limits.
class StrictBuilder : public nlohmann::json_sax<Json> {
 public:
  explicit StrictBuilder(const std::string& what) : what_(what) {}

  bool null() override { return add(nullptr) != nullptr; }
  bool boolean(bool value) override { return add(value) != nullptr; }
  bool number_integer(number_integer_t value) override { return add(value) != nullptr; }
  bool number_unsigned(number_unsigned_t value) override { return add(value) != nullptr; }
  bool number_float(number_float_t value, const string_t&) override { return add(value) != nullptr; }
  bool string(string_t& value) override { return add(std::move(value)) != nullptr; }
  bool binary(binary_t&) override { return false; }
  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    const auto [position, inserted] = open_.back()->emplace(name, nullptr);
    if (!inserted) {
      status_ = corrupt(what_ + ": key \"" + name + "\" occurs twice");
      return false;
    }
    member_ = &*position;
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    status_ = corrupt(what_ + ": invalid JSON at byte " + std::to_string(position) + " (" + error.what() + ")");
    return false;
  }

  const Status& status() const { return status_; }
  Json take() { return std::move(root_); }

 private:
  template <typename T>
  Json* add(T&& value) {
    if (++num_values_ > kMaxValues) {
      status_ = limit_error(what_ + ": more than " + std::to_string(kMaxValues) + " JSON values");
      return nullptr;
    }
    Json* target = &root_;
    if (!open_.empty()) {
      if (open_.back()->is_array()) {
        open_.back()->push_back(nullptr);
        target = &open_.back()->back();
      } else {
        target = member_;
      }
    }
    *target = Json(std::forward<T>(value));
    return target;
  }
  bool open(Json empty) {
    if (open_.size() == kMaxDepth) {
      status_ = limit_error(what_ + ": JSON nested deeper than " + std::to_string(kMaxDepth));
      return false;
    }
    Json* container = add(std::move(empty));
    if (container == nullptr) return false;
    open_.push_back(container);
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  const std::string& what_;
  Json root_;
  std::vector<Json*> open_;  // a parent's element does not move while its child is open
  Json* member_ = nullptr;
  size_t num_values_ = 0;
  Status status_;
};

Status wrong_type(const char* key, const char* expected, const Json& value) {
  return corrupt(std::string("field \"") + key + "\" is " + short_json(value) + ", it must be " + expected);
}

}  // namespace

std::string short_json(const Json& value) {
  constexpr size_t kMaxShown = 60;
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() <= kMaxShown) return text;
  size_t end = kMaxShown;
  while (end > 0 && (static_cast<uint8_t>(text[end]) & 0xc0) == 0x80) --end;  // not within a character
  return text.substr(0, end) + "...";
}

Result<Json> parse_json(Bytes text, const std::string& what) {
  StrictBuilder builder(what);
  const char* begin = reinterpret_cast<const char*>(text.data());
  if (!Json::sax_parse(begin, begin + text.size(), &builder)) {
    return builder.status().ok() ? corrupt(what + ": invalid JSON") : builder.status();
  }
  return builder.take();
}

Result<Json> parse_python_json(Bytes text, const std::string& what, size_t* num_replaced) {
  *num_replaced = 0;
  std::string strict;
  strict.reserve(text.size());
  const std::string_view in(reinterpret_cast<const char*>(text.data()), text.size());
  bool in_string = false;
  for (size_t pos = 0; pos < in.size();) {
    if (!in_string) {
      std::string_view literal;
      for (const std::string_view known : {"NaN", "Infinity", "-Infinity"}) {
        if (in.substr(pos, known.size()) == known) literal = known;
      }
      if (!literal.empty()) {
        strict.append("\"").append(literal).append("\"");
        pos += literal.size();
        ++*num_replaced;
        continue;
      }
    }
    const bool escape = in_string && in[pos] == '\\' && pos + 1 < in.size();
    if (in[pos] == '"') in_string = !in_string;
    strict.append(in.substr(pos, escape ? 2 : 1));
    pos += escape ? 2 : 1;
  }
  return parse_json({reinterpret_cast<const uint8_t*>(strict.data()), strict.size()}, what);
}

const Json* find_field(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

std::optional<uint64_t> as_u64(const Json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  return value.get<uint64_t>();
}

Status get_field(const Json& object, const char* key, uint32_t* out) {
  const Json* value = find_field(object, key);
  if (value == nullptr) return {};
  const std::optional<uint64_t> number = as_u64(*value);
  if (!number || *number > UINT32_MAX) return wrong_type(key, "an integer from 0 to 4294967295", *value);
  *out = static_cast<uint32_t>(*number);
  return {};
}

Status get_field(const Json& object, const char* key, float* out) {
  const Json* value = find_field(object, key);
  if (value == nullptr) return {};
  if (!value->is_number()) return wrong_type(key, "a number", *value);
  const double number = value->get<double>();
  if (!(std::abs(number) <= 3.4e38)) return wrong_type(key, "a number within the range of a float", *value);
  *out = static_cast<float>(number);
  return {};
}

Status get_field(const Json& object, const char* key, bool* out) {
  const Json* value = find_field(object, key);
  if (value == nullptr) return {};
  if (!value->is_boolean()) return wrong_type(key, "true or false", *value);
  *out = value->get<bool>();
  return {};
}

Status get_field(const Json& object, const char* key, std::string* out) {
  const Json* value = find_field(object, key);
  if (value == nullptr) return {};
  if (!value->is_string()) return wrong_type(key, "a string", *value);
  *out = value->get<std::string>();
  return {};
}

}  // namespace nwc
