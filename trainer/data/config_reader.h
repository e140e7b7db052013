// A config.json that remembers which of its keys were asked for, so that no key is ignored without a word.
#pragma once

#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "trainer/data/json_checked.h"

namespace nwc {

class ConfigReader {
 public:
  explicit ConfigReader(const nlohmann::json& config) : config_(config) {}

  /// Leaves *out alone where the key is absent or null. errors: kCorrupt (type, range), naming the key
  template <typename T>
  Status get(const char* key, T* out) {
    read_.insert(key);
    return get_field(config_, key, out);
  }
  /// The same, but the value has to be there and above 0.
  Status require(const char* key, uint32_t* out);
  /// nullptr: absent or null.
  const nlohmann::json* find(const char* key) {
    read_.insert(key);
    return find_field(config_, key);
  }
  /// Is the key there, even if its value is null?
  bool has(const char* key) {
    read_.insert(key);
    return config_.contains(key);
  }
  bool was_read(const std::string& key) const { return read_.count(key) != 0; }
  const nlohmann::json& json() const { return config_; }

 private:
  const nlohmann::json& config_;
  std::set<std::string> read_;
};

}  // namespace nwc
