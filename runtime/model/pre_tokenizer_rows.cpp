// The compiled patterns. Beside each stage its regular expression; L, M, N, P and S stand for \p{...}.
#include "runtime/model/pre_tokenizer.h"

namespace nwc {
namespace {

using Item = PatternItem;
using Alternative = PatternAlternative;

constexpr Item some(CharBits bits) { return {Item::kIn, 1, kMany, RangeSet::kNone, bits}; }
constexpr Item any(CharBits bits) { return {Item::kIn, 0, kMany, RangeSet::kNone, bits}; }
constexpr Item one(CharBits bits) { return {Item::kIn, 1, 1, RangeSet::kNone, bits}; }
constexpr Item maybe(CharBits bits) { return {Item::kIn, 0, 1, RangeSet::kNone, bits}; }
constexpr Item some_but(CharBits bits) { return {Item::kNotIn, 1, kMany, RangeSet::kNone, bits}; }
constexpr Item any_but(CharBits bits) { return {Item::kNotIn, 0, kMany, RangeSet::kNone, bits}; }
constexpr Item maybe_not(CharBits bits) { return {Item::kNotIn, 0, 1, RangeSet::kNone, bits}; }
constexpr Item up_to_three(CharBits bits) { return {Item::kIn, 1, 3, RangeSet::kNone, bits}; }

constexpr CharBits kL = kLetterBits, kM = kMarkBits, kN = kNumberBits, kSpace = kSpaceBit, kNewline = kNewlineBit;
// What o200k calls the upper and the lower half of a word.
constexpr CharBits kUpperHalf = kUpperBit | kTitleBit | kModifierBit | kOtherLetterBit | kM;
constexpr CharBits kLowerHalf = kLowerBit | kModifierBit | kOtherLetterBit | kM;
constexpr Item kContraction = {Item::kContraction}, kContractionNoCase = {Item::kContractionNoCase};
constexpr Item kMaybeContraction = {Item::kContractionNoCase, 0};
constexpr Item kNoTextAhead = {Item::kNoTextAhead};

// The ends of nearly all of them: S*[\r\n]+|S+(?!\S)|S+
constexpr Alternative kLines = {any(kSpace), some(kNewline)}, kLine = {any(kSpace), one(kNewline)};
constexpr Alternative kSpacesBeforeText = {some(kSpace), kNoTextAhead}, kSpaces = {some(kSpace)};
// [^\r\nLN]?L+ and  ?[^SLN]+[\r\n]*
constexpr Alternative kWord = {maybe_not(kNewline | kL | kN), some(kL)};
constexpr Alternative kSymbols = {maybe(kBlankBit), some_but(kSpace | kL | kN), any(kNewline)};

// 's|'t|'re|'ve|'m|'ll|'d| ?L+| ?N+| ?[^SLN]+|S+(?!\S)|S+
constexpr Alternative kGpt2[] = {{kContraction},
                                 {maybe(kBlankBit), some(kL)},
                                 {maybe(kBlankBit), some(kN)},
                                 {maybe(kBlankBit), some_but(kSpace | kL | kN)},
                                 kSpacesBeforeText,
                                 kSpaces};
// N
constexpr Alternative kDigit[] = {{one(kN)}};
// N+
constexpr Alternative kDigits[] = {{some(kN)}};
// N{1,3}
constexpr Alternative kThreeDigits[] = {{up_to_three(kN)}};
// [0-9][0-9][0-9]
constexpr Alternative kExactlyThree[] = {{Item{Item::kIn, 3, 3, RangeSet::kNone, kAsciiDigitBit}}};
// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\nLN]?L+|N{1,3}| ?[^SLN]+[\r\n]*|S*[\r\n]+|S+(?!\S)|S+
constexpr Alternative kLlama3[] = {{kContractionNoCase}, kWord,  {up_to_three(kN)}, kSymbols, kLines,
                                   kSpacesBeforeText,    kSpaces};
// The same with N in place of N{1,3}
constexpr Alternative kQwen2[] = {{kContractionNoCase}, kWord, {one(kN)}, kSymbols, kLines, kSpacesBeforeText, kSpaces};
// The same with N+
constexpr Alternative kManyDigits[] = {{kContractionNoCase}, kWord,  {some(kN)}, kSymbols, kLines,
                                       kSpacesBeforeText,    kSpaces};
// (?i:...)|[^\r\nLN]?[LM]+|N| ?[^SLMN]+[\r\n]*|S*[\r\n]+|S+(?!\S)|S+
constexpr Alternative kQwen35[] = {{kContractionNoCase},
                                   {maybe_not(kNewline | kL | kN), some(kL | kM)},
                                   {one(kN)},
                                   {maybe(kBlankBit), some_but(kSpace | kL | kM | kN), any(kNewline)},
                                   kLines,
                                   kSpacesBeforeText,
                                   kSpaces};
// [^\r\nLN]?[upper]*[lower]+(?i:...)?|[^\r\nLN]?[upper]+[lower]*(?i:...)?|N{1,3}| ?[^SLN]+[\r\n/]*|...
constexpr Alternative kO200k[] = {{maybe_not(kNewline | kL | kN), any(kUpperHalf), some(kLowerHalf), kMaybeContraction},
                                  {maybe_not(kNewline | kL | kN), some(kUpperHalf), any(kLowerHalf), kMaybeContraction},
                                  {up_to_three(kN)},
                                  {maybe(kBlankBit), some_but(kSpace | kL | kN), any(kNewline | kSlashBit)},
                                  kLines,
                                  kSpacesBeforeText,
                                  kSpaces};
// The same without contractions, and with N
constexpr Alternative kTekken[] = {{maybe_not(kNewline | kL | kN), any(kUpperHalf), some(kLowerHalf)},
                                   {maybe_not(kNewline | kL | kN), some(kUpperHalf), any(kLowerHalf)},
                                   {one(kN)},
                                   {maybe(kBlankBit), some_but(kSpace | kL | kN), any(kNewline | kSlashBit)},
                                   kLines,
                                   kSpacesBeforeText,
                                   kSpaces};
// '(?i:[sdmt]|ll|ve|re)|[^\r\nLN]?+L+|N{1,3}| ?[^SLN]++[\r\n]*|S*[\r\n]|S+(?!\S)|S+
constexpr Alternative kCl100k[] = {{kContractionNoCase}, kWord,  {up_to_three(kN)}, kSymbols, kLine,
                                   kSpacesBeforeText,    kSpaces};
// The same with N
constexpr Alternative kBailing[] = {{kContractionNoCase}, kWord,  {one(kN)}, kSymbols, kLine,
                                    kSpacesBeforeText,    kSpaces};
// (?i:...)|[^\r\nLN]?L+|N{1}| ?[^SLN\r\n]+|S*[\r\n]+|S+(?!\S)|S+
constexpr Alternative kSeedCoder[] = {
    {kContractionNoCase}, kWord,  {one(kN)}, {maybe(kBlankBit), some_but(kSpace | kL | kN)}, kLines,
    kSpacesBeforeText,    kSpaces};

//  ?[^(\s|[.,!?...])]+
constexpr CodeRange kBloomStops[] = {{0x21, 0x21},   {0x28, 0x29},     {0x2c, 0x2c},     {0x2e, 0x2e},
                                     {0x3f, 0x3f},   {0x7c, 0x7c},     {0x60c, 0x60c},   {0x6d4, 0x6d4},
                                     {0x964, 0x964}, {0x2026, 0x2026}, {0x3001, 0x3002}, {0xff0c, 0xff0c}};
constexpr Alternative kBloom[] = {
    {maybe(kBlankBit), Item{Item::kNotInRanges, 1, kMany, RangeSet::kBloomStops, kSpace}}};

// [\r\n]
constexpr Alternative kNewlines[] = {{one(kNewline)}};
// S?[A-Za-z...]+
constexpr CodeRange kCasedLetters[] = {
    {0x41, 0x5a},       {0x61, 0x7a},       {0xb5, 0xb5},       {0xc0, 0xd6},       {0xd8, 0xf6},
    {0xf8, 0x1ba},      {0x1bc, 0x1bf},     {0x1c4, 0x293},     {0x295, 0x2af},     {0x370, 0x373},
    {0x376, 0x377},     {0x37b, 0x37d},     {0x37f, 0x37f},     {0x386, 0x386},     {0x388, 0x38a},
    {0x38c, 0x38c},     {0x38e, 0x3a1},     {0x3a3, 0x3f5},     {0x3f7, 0x481},     {0x48a, 0x52f},
    {0x531, 0x556},     {0x10a0, 0x10c5},   {0x13a0, 0x13f5},   {0x13f8, 0x13fd},   {0x1c90, 0x1cba},
    {0x1cbd, 0x1cbf},   {0x1d00, 0x1d2b},   {0x1d6b, 0x1d77},   {0x1d79, 0x1d9a},   {0x1e00, 0x1f15},
    {0x1f18, 0x1f1d},   {0x1f20, 0x1f45},   {0x1f48, 0x1f4d},   {0x1f50, 0x1f57},   {0x1f59, 0x1f59},
    {0x1f5b, 0x1f5b},   {0x1f5d, 0x1f5d},   {0x1f5f, 0x1f7d},   {0x1f80, 0x1fb4},   {0x1fb6, 0x1fbc},
    {0x1fbe, 0x1fbe},   {0x1fc2, 0x1fc4},   {0x1fc6, 0x1fcc},   {0x1fd0, 0x1fd3},   {0x1fd6, 0x1fdb},
    {0x1fe0, 0x1fec},   {0x1ff2, 0x1ff4},   {0x1ff6, 0x1ffc},   {0x2102, 0x2102},   {0x2107, 0x2107},
    {0x210a, 0x2113},   {0x2115, 0x2115},   {0x2119, 0x211d},   {0x2124, 0x2124},   {0x2126, 0x2126},
    {0x2128, 0x2128},   {0x212a, 0x212d},   {0x212f, 0x2134},   {0x2139, 0x2139},   {0x213c, 0x213f},
    {0x2145, 0x2149},   {0x214e, 0x214e},   {0x2183, 0x2184},   {0x2c00, 0x2c7b},   {0x2c7e, 0x2ce4},
    {0x2ceb, 0x2cee},   {0x2cf2, 0x2cf3},   {0xa640, 0xa66d},   {0xa680, 0xa69b},   {0xa722, 0xa76f},
    {0xa771, 0xa787},   {0xa78b, 0xa78e},   {0xab70, 0xabbf},   {0xfb00, 0xfb06},   {0xfb13, 0xfb17},
    {0xff21, 0xff3a},   {0xff41, 0xff5a},   {0x10400, 0x1044f}, {0x104b0, 0x104d3}, {0x104d8, 0x104fb},
    {0x10c80, 0x10cb2}, {0x10cc0, 0x10cf2}, {0x118a0, 0x118df}, {0x1e900, 0x1e943}};
constexpr Alternative kSpaceAndCasedLetters[] = {
    {maybe(kSpace), Item{Item::kInRanges, 1, kMany, RangeSet::kCasedLetters}}};
// S?[!-/:-~...]+
constexpr CodeRange kMostPunctuation[] = {{0x21, 0x2f},     {0x3a, 0x7e},     {0x2018, 0x201f},
                                          {0x3000, 0x3002}, {0xff01, 0xff0f}, {0xff1a, 0xff5e}};
constexpr Alternative kSpaceAndMostPunctuation[] = {
    {maybe(kSpace), Item{Item::kInRanges, 1, kMany, RangeSet::kMostPunctuation}}};
// S+$
constexpr Alternative kSpacesAtEnd[] = {{Item{Item::kRunToEnd}}};
// U+4E00 to U+9FA5, U+0800 to U+4E00, U+AC00 to U+D7FF
constexpr CodeRange kAsianLetters[] = {{0x800, 0x9fa5}, {0xac00, 0xd7ff}};
constexpr Alternative kAsian[] = {{Item{Item::kInRanges, 1, kMany, RangeSet::kAsianLetters}}};
// S?L+ and S?P+
constexpr Alternative kSpaceAndLetters[] = {{maybe(kSpace), some(kL)}};
constexpr Alternative kSpaceAndPunctuation[] = {{maybe(kSpace), some(kPunctuationBit)}};
// U+4E00 to U+9FA5, U+3040 to U+309F, U+30A0 to U+30FF
constexpr CodeRange kChineseAndKana[] = {{0x3040, 0x30ff}, {0x4e00, 0x9fa5}};
constexpr Alternative kChineseJapanese[] = {{Item{Item::kInRanges, 1, kMany, RangeSet::kChineseAndKana}}};
// [ASCII punctuation][A-Za-z]+|[^\r\nLPS]?[LM]+| ?[PS]+[\r\n]*|S*[\r\n]+|S+(?!\S)|S+
constexpr CharBits kPunctuationOrSymbol = kPunctuationBit | kSymbolBit;
constexpr Alternative kDeepSeekV3[] = {{one(kAsciiPunctBit), some(kAsciiLetterBit)},
                                       {maybe_not(kNewline | kL | kPunctuationOrSymbol), some(kL | kM)},
                                       {maybe(kBlankBit), some(kPunctuationOrSymbol), any(kNewline)},
                                       kLines,
                                       kSpacesBeforeText,
                                       kSpaces};
// Punctuation, and everything that ASCII has beside letters and numbers
constexpr Alternative kPunctuationRuns[] = {{some(kPunctuationBit | kAsciiPunctBit)}};
constexpr Alternative kPunctuationMarks[] = {{one(kPunctuationBit | kAsciiPunctBit)}};
constexpr Alternative kFromSpaceToSpace[] = {{one(kBlankBit), any_but(kBlankBit)}, {some_but(kBlankBit)}};
constexpr Alternative kWhiteSpace[] = {{some(kSpace)}};

constexpr PatternStage kGpt2Stage = {kGpt2}, kDigitStage = {kDigit}, kLlama3Stage = {kLlama3}, kQwen2Stage = {kQwen2},
                       kQwen35Stage = {kQwen35}, kO200kStage = {kO200k}, kTekkenStage = {kTekken},
                       kCl100kStage = {kCl100k}, kBailingStage = {kBailing}, kSeedCoderStage = {kSeedCoder},
                       kBloomStage = {kBloom}, kManyDigitsStage = {kManyDigits}, kThreeDigitsStage = {kThreeDigits},
                       kNewlinesStage = {kNewlines}, kCasedLettersStage = {kSpaceAndCasedLetters},
                       kMostPunctuationStage = {kSpaceAndMostPunctuation}, kSpacesAtEndStage = {kSpacesAtEnd},
                       kAsianStage = {kAsian}, kLettersStage = {kSpaceAndLetters},
                       kSpacePunctuationStage = {kSpaceAndPunctuation}, kChineseJapaneseStage = {kChineseJapanese},
                       kDeepSeekV3Stage = {kDeepSeekV3}, kPunctuationRunsStage = {kPunctuationRuns},
                       kPunctuationMarksStage = {kPunctuationMarks},
                       kByteDigitsStage = {.alternatives = kDigits, .of_bytes = true},
                       kExactlyThreeStage = {kExactlyThree}, kFromSpaceStage = {kFromSpaceToSpace},
                       kWhiteSpaceStage = {.alternatives = kWhiteSpace, .drops_matches = true};

constexpr const PatternStage* kGpt2Row[] = {&kGpt2Stage};
constexpr const PatternStage* kSmolLm2Row[] = {&kDigitStage, &kGpt2Stage};
constexpr const PatternStage* kLlama3Row[] = {&kLlama3Stage};
constexpr const PatternStage* kQwen2Row[] = {&kQwen2Stage};
constexpr const PatternStage* kQwen35Row[] = {&kQwen35Stage};
constexpr const PatternStage* kO200kRow[] = {&kO200kStage};
constexpr const PatternStage* kTekkenRow[] = {&kTekkenStage};
constexpr const PatternStage* kDeepSeekLlmRow[] = {&kNewlinesStage,    &kCasedLettersStage, &kMostPunctuationStage,
                                                   &kSpacesAtEndStage, &kAsianStage,        &kDigitStage};
constexpr const PatternStage* kDeepSeekCoderRow[] = {&kNewlinesStage, &kLettersStage, &kSpacePunctuationStage,
                                                     &kAsianStage, &kDigitStage};
constexpr const PatternStage* kDeepSeekV3Row[] = {&kThreeDigitsStage, &kChineseJapaneseStage, &kDeepSeekV3Stage};
constexpr const PatternStage* kFalconRow[] = {&kPunctuationRunsStage, &kGpt2Stage, &kByteDigitsStage,
                                              &kExactlyThreeStage};
constexpr const PatternStage* kCl100kRow[] = {&kCl100kStage};
constexpr const PatternStage* kBailingRow[] = {&kBailingStage};
constexpr const PatternStage* kSeedCoderRow[] = {&kSeedCoderStage};
constexpr const PatternStage* kBloomRow[] = {&kBloomStage};
constexpr const PatternStage* kVikingRow[] = {&kBloomStage, &kDigitStage};
constexpr const PatternStage* kMiniCpm5Row[] = {&kThreeDigitsStage, &kManyDigitsStage};
constexpr const PatternStage* kSpacesRow[] = {&kFromSpaceStage};
constexpr const PatternStage* kWordsRow[] = {&kWhiteSpaceStage};
constexpr const PatternStage* kBertRow[] = {&kWhiteSpaceStage, &kPunctuationMarksStage};

}  // namespace

std::span<const CodeRange> code_ranges(RangeSet set) {
  switch (set) {
    case RangeSet::kNone: break;
    case RangeSet::kBloomStops: return kBloomStops;
    case RangeSet::kCasedLetters: return kCasedLetters;
    case RangeSet::kMostPunctuation: return kMostPunctuation;
    case RangeSet::kAsianLetters: return kAsianLetters;
    case RangeSet::kChineseAndKana: return kChineseAndKana;
  }
  return {};
}

std::span<const PatternStage* const> pattern_stages(PreTokenizer kind) {
  switch (kind) {
    case PreTokenizer::kNone: return {};
    case PreTokenizer::kGpt2: return kGpt2Row;
    case PreTokenizer::kSmolLm2: return kSmolLm2Row;
    case PreTokenizer::kLlama3: return kLlama3Row;
    case PreTokenizer::kQwen2: return kQwen2Row;
    case PreTokenizer::kQwen35: return kQwen35Row;
    case PreTokenizer::kO200k: return kO200kRow;
    case PreTokenizer::kTekken: return kTekkenRow;
    case PreTokenizer::kDeepSeekLlm: return kDeepSeekLlmRow;
    case PreTokenizer::kDeepSeekCoder: return kDeepSeekCoderRow;
    case PreTokenizer::kDeepSeekV3: return kDeepSeekV3Row;
    case PreTokenizer::kFalcon: return kFalconRow;
    case PreTokenizer::kCl100k: return kCl100kRow;
    case PreTokenizer::kBailing: return kBailingRow;
    case PreTokenizer::kSeedCoder: return kSeedCoderRow;
    case PreTokenizer::kBloom: return kBloomRow;
    case PreTokenizer::kViking: return kVikingRow;
    case PreTokenizer::kMiniCpm5: return kMiniCpm5Row;
    case PreTokenizer::kSpaces: return kSpacesRow;
    case PreTokenizer::kWords: return kWordsRow;
    case PreTokenizer::kBert: return kBertRow;
  }
  return {};
}

}  // namespace nwc
