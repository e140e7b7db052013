#include "host-tools/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <sstream>

namespace nwc::cli {
namespace {

constexpr size_t kColumns = 100, kDescriptionColumn = 34;

/// Breaks each line at its last space that fits. What follows is indented like a description.
std::string wrap(const std::string& text) {
  std::string out;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    while (line.size() > kColumns) {
      const size_t space = line.rfind(' ', kColumns);
      // A word that is too long for any line stays in one piece.
      if (space == std::string::npos || line.find_last_not_of(' ', space) <= kDescriptionColumn) break;
      out.append(line, 0, space).append("\n");
      line = std::string(kDescriptionColumn, ' ') + line.substr(space + 1);
    }
    out.append(line).append("\n");
    begin = end + 1;
  }
  return out;
}

/// Options and their descriptions in two columns, with long descriptions broken into lines.
class HelpFormatter : public CLI::Formatter {
 public:
  HelpFormatter() { column_width(kDescriptionColumn); }
  std::string make_option(const CLI::Option* option, bool is_positional) const override {
    return wrap(CLI::Formatter::make_option(option, is_positional));
  }
};

/// NaN passes every comparison of a range, and infinity is no value of any option.
const CLI::Validator kFinite(
    [](std::string& text) {
      char* end = nullptr;
      const float value = std::strtof(text.c_str(), &end);
      return end == text.c_str() || std::isfinite(value) ? std::string() : text + " is not a finite number";
    },
    "");

/// The conversion would take a number beyond 2^64 for the largest, -1 for it as well, and 010 for 8.
const CLI::Validator kWholeNumber(
    [](std::string& text) {
      uint64_t value = 0;
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
      const bool whole = error == std::errc() && end == text.data() + text.size();
      if (whole && (text.size() == 1 || text.front() != '0')) return std::string();
      return "'" + text + "' is not a whole number from 0 on in decimal digits, or too large";
    },
    "");

/// The values of an option that takes one of a few, which its type's name has as {a,b,c}.
std::vector<std::string> values_of(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  const size_t begin = type.find('{'), end = type.find('}');
  std::vector<std::string> out;
  if (begin == std::string::npos || end == std::string::npos) return out;
  for (size_t at = begin + 1; at <= end;) {
    const size_t next = std::min(type.find(',', at), end);
    if (next > at) out.push_back(type.substr(at, next - at));
    at = next + 1;
  }
  return out;
}

}  // namespace

bool Option::given() const { return option_->count() != 0; }
Option Option::required() const { return Option(option_->required()); }
template <typename T>
Option Option::range(T least, T most) const {
  return Option(option_->check(CLI::Range(least, most)));
}
template Option Option::range(int, int) const;
template Option Option::range(uint32_t, uint32_t) const;
template Option Option::range(uint64_t, uint64_t) const;
template Option Option::range(double, double) const;
Option Option::positive() const { return Option(option_->check(CLI::PositiveNumber)); }
Option Option::not_negative() const { return Option(option_->check(CLI::NonNegativeNumber)); }
Option Option::one_of(const std::vector<std::string>& values) const {
  return Option(option_->check(CLI::IsMember(values)));
}
Option Option::one_of_numbers(const std::vector<int>& values) const {
  return Option(option_->check(CLI::IsMember(values)));
}
Option Option::existing_file() const { return Option(option_->check(CLI::ExistingFile)); }
Option Option::existing_folder() const { return Option(option_->check(CLI::ExistingDirectory)); }
Option Option::show_default() const { return Option(option_->capture_default_str()); }
Option Option::default_text(const std::string& text) const { return Option(option_->default_val(text)); }
Option Option::group(const std::string& headline) const { return Option(option_->group(headline)); }
Option Option::excludes(const Option& other) const { return Option(option_->excludes(other.option_)); }
Option Option::excludes(const std::string& other) const { return Option(option_->excludes(other)); }
Option Option::needs(const Option& other) const { return Option(option_->needs(other.option_)); }
Option Option::one_at_a_time() const { return Option(option_->allow_extra_args(false)); }

template <typename T>
Option Command::add_option(const std::string& name, T& value, const std::string& help) {
  return Option(app_->add_option(name, value, help));
}
template Option Command::add_option(const std::string&, std::string&, const std::string&);
template Option Command::add_option(const std::string&, std::vector<std::string>&, const std::string&);
template Option Command::add_option(const std::string&, uint32_t&, const std::string&);
template Option Command::add_option(const std::string&, uint64_t&, const std::string&);
template Option Command::add_option(const std::string&, float&, const std::string&);
template Option Command::add_option(const std::string&, double&, const std::string&);
template Option Command::add_option(const std::string&, std::vector<uint32_t>&, const std::string&);
template Option Command::add_option(const std::string&, std::vector<double>&, const std::string&);
template Option Command::add_option(const std::string&, std::optional<uint32_t>&, const std::string&);
template Option Command::add_option(const std::string&, std::optional<uint64_t>&, const std::string&);
template Option Command::add_option(const std::string&, std::optional<double>&, const std::string&);

Option Command::add_flag(const std::string& name, bool& value, const std::string& help) {
  return Option(app_->add_flag(name, value, help));
}

Option Command::option(const std::string& name) const { return Option(app_->get_option(name)); }

void Command::check_numbers() {
  for (CLI::Option* option : app_->get_options()) {
    if (option->get_type_name().starts_with("FLOAT")) option->check(kFinite);
    if (option->get_type_name().starts_with("UINT")) option->check(kWholeNumber);
  }
}

void Command::keep_other_words() {
  app_->set_help_flag("");
  app_->allow_extras();
}

std::vector<std::string> Command::other_words() const { return app_->remaining(); }

void Command::on_run(std::function<void()> body) { app_->callback(std::move(body)); }

std::string Command::name() const { return app_->get_name(); }
std::string Command::description() const { return app_->get_description(); }

std::vector<OptionText> Command::option_texts() const {
  std::vector<OptionText> out;
  for (const CLI::Option* option : app_->get_options()) {
    OptionText text;
    for (const std::string& name : option->get_lnames()) text.names.push_back("--" + name);
    for (const std::string& name : option->get_snames()) text.names.push_back("-" + name);
    if (text.names.empty()) continue;
    text.description = option->get_description();
    text.values = values_of(*option);
    text.takes_value = option->get_items_expected_max() > 0;
    out.push_back(std::move(text));
  }
  return out;
}

CommandLine::CommandLine(const std::string& description, const std::string& program)
    : app_(std::make_unique<CLI::App>(description, program)) {
  app_->require_subcommand(1);
  app_->allow_windows_style_options(false);  // "/models/m" is a path on every system
  app_->set_help_flag("-h,--help", "Print this help and exit");
  app_->formatter(std::make_shared<HelpFormatter>());
}

CommandLine::~CommandLine() = default;

Command CommandLine::add_command(const std::string& name, const std::string& description) {
  return Command(app_->add_subcommand(name, description));
}

std::vector<Command> CommandLine::commands() const {
  std::vector<Command> out;
  for (CLI::App* command : app_->get_subcommands([](const CLI::App*) { return true; })) out.emplace_back(command);
  return out;
}

void CommandLine::set_version(const std::string& text) { app_->set_version_flag("--version", text); }

CommandLine::Outcome CommandLine::run(int argc, const char* const* argv) {
  try {
    app_->parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::ostringstream out, wrong;
    const bool usage = app_->exit(error, out, wrong) != 0;
    return {usage, usage ? wrong.str() : out.str()};
  } catch (const UsageError& error) {
    return {true, error.message + "\n"};
  }
  return {};
}

}  // namespace nwc::cli
