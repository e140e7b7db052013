// Reads JSON from untrusted files: strict parsing without exceptions, and access to fields with errors that name the
// field.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "runtime/base/bytes.h"
#include "runtime/base/status.h"

namespace nwc {

/// Parses one JSON document. `what` (a file name, "header") starts every message.
/// errors: kCorrupt (syntax with byte offset, invalid UTF-8, a key that occurs twice in one object), kLimit (nested
/// deeper than 64, more than 4 million values)
Result<nlohmann::json> parse_json(Bytes text, const std::string& what);

/// Does the same for a text that Python may have written. NaN, Infinity and -Infinity become strings of these names,
/// which no getter of a number accepts. *num_replaced is their number.
Result<nlohmann::json> parse_python_json(Bytes text, const std::string& what, size_t* num_replaced);

// Each getter leaves *out alone when the key is absent or null, so that a default can stand there; a value of the wrong
// type or range is kCorrupt. `object` need not be an object: then every key is absent.
Status get_field(const nlohmann::json& object, const char* key, uint32_t* out);
Status get_field(const nlohmann::json& object, const char* key, float* out);
Status get_field(const nlohmann::json& object, const char* key, bool* out);
Status get_field(const nlohmann::json& object, const char* key, std::string* out);

/// The value under key, or nullptr when the key is absent or null.
const nlohmann::json* find_field(const nlohmann::json& object, const char* key);

/// A value of a configuration for a message: as JSON, cut after 60 bytes.
std::string short_json(const nlohmann::json& value);

/// The value as an unsigned integer, or nullopt.
std::optional<uint64_t> as_u64(const nlohmann::json& value);

}  // namespace nwc
