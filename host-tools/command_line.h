// Commands, their options, and what is parsed of a program's arguments. CLI11 does the work: its headers take seconds
// to compile, so that command_line.cpp alone sees them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace nwc::cli {

/// An option, a flag or a positional argument of a command. Copies mean the same one. All but `given` say something of
/// it and return it.
class Option {
 public:
  explicit Option(CLI::Option* option) : option_(option) {}

  /// Whether the arguments have it. To be asked when they are parsed.
  bool given() const;

  Option required() const;
  /// A number from `least` to `most`. T: int, uint32_t, uint64_t or double.
  template <typename T>
  Option range(T least, T most) const;
  Option positive() const;
  Option not_negative() const;
  Option one_of(const std::vector<std::string>& values) const;
  Option one_of_numbers(const std::vector<int>& values) const;
  Option existing_file() const;
  Option existing_folder() const;
  /// The help shows the variable's value as the default.
  Option show_default() const;
  /// The help shows this as the default, and the variable gets it.
  Option default_text(const std::string& text) const;
  /// The headline below which the help has it; empty: the help does not have it.
  Option group(const std::string& headline) const;
  Option excludes(const Option& other) const;
  Option excludes(const std::string& other) const;
  Option needs(const Option& other) const;
  /// One value after each mention of an option that may be given several times.
  Option one_at_a_time() const;

 private:
  CLI::Option* option_;
};

/// What the completion of shells has to know of an option.
struct OptionText {
  std::vector<std::string> names;  ///< "--bits", "-b", and both names of a flag that can be turned off
  std::string description;
  std::vector<std::string> values;  ///< empty: not one of a few
  bool takes_value = false;
};

/// A command. Copies mean the same one.
class Command {
 public:
  explicit Command(CLI::App* app) : app_(app) {}

  /// name: "model" (positional), "--model" or "-m,--model". `value` has to outlive the parsing. T: what
  /// command_line.cpp names, numbers and texts, and vectors and optionals of them.
  template <typename T>
  Option add_option(const std::string& name, T& value, const std::string& help = "");
  /// name: as above; "--speed,!--no-speed" can be turned off as well.
  Option add_flag(const std::string& name, bool& value, const std::string& help);
  /// The option or flag of this name, which has to be there.
  Option option(const std::string& name) const;
  bool given(const std::string& name) const { return option(name).given(); }

  /// From the options that are there now, NaN and infinite numbers are kept away, and from whole ones what would be
  /// changed silently: those that are negative or too large for their type, and octal ones.
  void check_numbers();
  /// Words that are no options of its own are kept; --help is one of them.
  void keep_other_words();
  std::vector<std::string> other_words() const;

  /// Called with the command's options in their variables. May throw UsageError.
  void on_run(std::function<void()> body);

  std::string name() const;
  std::string description() const;
  /// Of options and flags, not of positional arguments.
  std::vector<OptionText> option_texts() const;

 private:
  CLI::App* app_;
};

/// What is wrong with the values of a command's options.
struct UsageError {
  std::string message;
};

/// A program with commands, one of which has to be given.
class CommandLine {
 public:
  CommandLine(const std::string& description, const std::string& program);
  ~CommandLine();

  Command add_command(const std::string& name, const std::string& description);
  std::vector<Command> commands() const;
  /// --version prints the text.
  void set_version(const std::string& text);

  /// What is to be printed instead of the results of a command: help or version, or what is wrong with the arguments.
  struct Outcome {
    bool usage_error = false;
    std::string text;
  };
  /// Runs the command that the arguments name.
  Outcome run(int argc, const char* const* argv);

 private:
  std::unique_ptr<CLI::App> app_;
};

}  // namespace nwc::cli
