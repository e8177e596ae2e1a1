#include "training/evaluation/tasks/words.h"

#include <algorithm>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace spotlight::training {
namespace {

using Phrases = std::vector<std::string>;

Phrases Split(const char* text) {
  return absl::StrSplit(text, absl::ByAnyChar("|\n"), absl::SkipEmpty());
}

const Phrases& People() {
  static const auto* const kPhrases = new Phrases(Split(
      "the baker|the librarian|the gardener|the postman|the teacher|the carpenter|the nurse|the fisherman|the tailor|"
      "the painter|the shepherd|the watchmaker|the innkeeper|the ferryman|the clerk|the musician|the farmer|"
      "the mason|the weaver|the student|the neighbour|the blacksmith|the cook|the gatekeeper|the bookseller"));
  return *kPhrases;
}

const Phrases& Places() {
  static const auto* const kPhrases =
      new Phrases(Split("by the river|near the old mill|at the market|behind the church|in the valley|on the hill|"
                        "at the harbour|by the orchard|near the bridge|at the edge of the woods|in the square|"
                        "beside the canal|below the castle|at the crossroads|along the coast|in the next village"));
  return *kPhrases;
}

const Phrases& Deeds() {
  static const auto* const kPhrases = new Phrases(
      Split("mended a broken fence|waited for the rain to stop|told a long story|sold a basket of pears|"
            "looked for a lost dog|read a letter twice|swept the front steps|sang an old song|planted a row of beans|"
            "carried a heavy sack|lit a small lamp|counted the passing carts|fed the geese|sharpened a dull knife|"
            "wrote in a thin notebook|shared a loaf of bread|fixed the leaking roof|watched the clouds drift by|"
            "polished a copper kettle|gathered some firewood|painted the garden gate|folded the clean sheets|"
            "asked about the weather|hummed a quiet tune|mixed a pot of glue|drew a map in the dust"));
  return *kPhrases;
}

const Phrases& Times() {
  static const auto* const kPhrases =
      new Phrases(Split("early in the morning|after supper|before the storm|at noon|during the long winter|"
                        "on a warm evening|while the children played|as the sun went down|when the bells rang|"
                        "late at night|in the first days of spring|without saying a word|as on any other day"));
  return *kPhrases;
}

const Phrases& FirstAdjectives() {
  static const auto* const kPhrases =
      new Phrases(Split("brave|calm|clever|curious|eager|fancy|gentle|happy|humble|jolly|kind|lively|lucky|merry|noble|"
                        "patient|polite|proud|quiet|rapid|shy|silent|steady|swift|tender|tidy|vivid|wary|wise|witty|"
                        "bold|bright|cheerful|daring|faithful|graceful|honest|modest|playful|stubborn"));
  return *kPhrases;
}

const Phrases& SecondAdjectives() {
  static const auto* const kPhrases =
      new Phrases(Split("amber|azure|bronze|cherry|copper|coral|cotton|crimson|crystal|ebony|emerald|frozen|golden|"
                        "granite|hazel|hollow|indigo|ivory|jade|lemon|lilac|linen|marble|mossy|olive|painted|pearl|"
                        "purple|rusty|sandy|scarlet|silver|smoky|snowy|spotted|striped|velvet|violet|wooden|woollen"));
  return *kPhrases;
}

const Phrases& Animals() {
  static const auto* const kPhrases = new Phrases(
      Split("falcon|badger|beaver|camel|cricket|dolphin|donkey|eagle|ferret|gecko|hamster|heron|jackal|"
            "koala|lizard|lobster|magpie|marten|monkey|moose|newt|octopus|otter|panther|parrot|pelican|"
            "penguin|pigeon|rabbit|raven|salmon|sparrow|spider|squid|swan|tiger|turtle|walrus|weasel|wolf"));
  return *kPhrases;
}

const Phrases& Nouns() {
  static const auto* const kPhrases = new Phrases(Split(
      "anchor|apple|arrow|attic|banner|barrel|basket|beacon|bench|blanket|bottle|branch|bread|bridge|broom|bucket|"
      "button|cabin|candle|canvas|carpet|castle|cellar|chain|chair|chalk|cheese|chimney|circle|clock|cloud|coat|"
      "coin|compass|cradle|crown|curtain|desert|diamond|door|drawer|dress|drum|engine|envelope|fabric|feather|"
      "fence|field|flag|flame|flower|flute|forest|fountain|garden|gate|glass|glove|grain|grape|guitar|hammer|"
      "harbor|hedge|helmet|hill|honey|horn|hotel|island|jacket|jar|jewel|kettle|key|kitchen|ladder|lake|lamp|"
      "lantern|leather|ledger|letter|market|mask|meadow|medal|melon|mirror|mountain|needle|oar|ocean|orange|"
      "orchard|oven|paddle|palace|paper|path|pepper|piano|picture|pillow|pipe|pocket|potato|powder|puzzle|quilt|"
      "radio|raft|rail|ribbon|river|road|rocket|roof|rope|rose|saddle|sail|salt|sand|scarf|school|shelf|ship|shoe|"
      "shovel|smoke|soap|soup|spoon|stair|stamp|station|statue|stone|stove|street|string|sugar|table|temple|tent|"
      "thread|ticket|tobacco|tower|train|tray|tunnel|umbrella|valley|vase|violin|wagon|wall|watch|wheel|whistle|"
      "window|winter|wire|wool|yarn"));
  return *kPhrases;
}

std::string Sentence(Random* random) {
  const std::string &who = random->Pick(People()), &where = random->Pick(Places()), &deed = random->Pick(Deeds()),
                    &when = random->Pick(Times());
  std::string text;
  switch (random->Below(3)) {
    case 0:
      text = absl::StrCat(who, " ", where, " ", deed, " ", when, ".");
      break;
    case 1:
      text = absl::StrCat(when, ", ", who, " ", where, " ", deed, ".");
      break;
    default:
      text = absl::StrCat(where, ", ", when, ", ", who, " ", deed, ".");
  }
  text[0] = absl::ascii_toupper(static_cast<unsigned char>(text[0]));
  return text;
}

}  // namespace

std::vector<std::string> FillerSentences::Draw(int64_t count) {
  std::set<std::string> seen;
  std::vector<std::string> sentences;
  while (static_cast<int64_t>(sentences.size()) < count) {
    std::string sentence = Sentence(random_);
    if (seen.insert(sentence).second) sentences.push_back(std::move(sentence));
  }
  return sentences;
}

std::vector<std::string> DrawKeys(int64_t count, Random* random) {
  const auto animals = static_cast<int64_t>(Animals().size()),
             seconds = static_cast<int64_t>(SecondAdjectives().size());
  std::vector<std::string> keys;
  for (const int64_t i : random->Distinct(count, kMaxKeys)) {
    keys.push_back(absl::StrCat(FirstAdjectives()[i / (animals * seconds)], " ",
                                SecondAdjectives()[i / animals % seconds], " ", Animals()[i % animals]));
  }
  return keys;
}

std::vector<std::string> DrawValues(int64_t count, Random* random) {
  std::vector<std::string> values;
  for (const int64_t i : random->Distinct(count, kMaxValues)) values.push_back(absl::StrCat(10000 + i));
  return values;
}

std::vector<std::string> DrawVariableNames(int64_t count, Random* random) {
  constexpr absl::string_view kLetters = "BCDFGHJKLMNPQRSTVWXZ";
  constexpr auto kCount = static_cast<int64_t>(kLetters.size());
  std::vector<std::string> names;
  for (const int64_t i : random->Distinct(count, kCount * kCount * kCount)) {
    names.push_back({kLetters[i / (kCount * kCount)], kLetters[i / kCount % kCount], kLetters[i % kCount]});
  }
  return names;
}

std::vector<std::string> DrawNouns(int64_t count, Random* random) {
  std::vector<std::string> nouns = Nouns();
  random->Shuffle(nouns);
  const auto single = static_cast<int64_t>(nouns.size());
  if (count <= single) {
    nouns.resize(count);
    return nouns;
  }
  const int64_t half = single / 2;
  for (const int64_t i : random->Distinct(count - single, half * half)) {
    nouns.push_back(absl::StrCat(nouns[half + i / half], "-", nouns[half + i % half]));
  }
  return nouns;
}

std::vector<std::string> DrawMadeUpWords(int64_t count, Random* random) {
  constexpr absl::string_view kConsonants = "bdfgklmnprstvz", kVowels = "aeiou";
  constexpr auto kSyllables = static_cast<int64_t>(kConsonants.size() * kVowels.size());
  const auto syllable = [&](int64_t i) {
    return std::string{kConsonants[i / static_cast<int64_t>(kVowels.size())],
                       kVowels[i % static_cast<int64_t>(kVowels.size())]};
  };
  std::vector<std::string> words;
  for (const int64_t i : random->Distinct(count, kSyllables * kSyllables * kSyllables)) {
    words.push_back(absl::StrCat(syllable(i / (kSyllables * kSyllables)), syllable(i / kSyllables % kSyllables),
                                 syllable(i % kSyllables)));
  }
  return words;
}

std::string Enumerate(const std::vector<std::string>& items) {
  if (items.size() < 3) return absl::StrJoin(items, " and ");
  return absl::StrCat(absl::StrJoin(items.begin(), items.end() - 1, ", "), ", and ", items.back());
}

}  // namespace spotlight::training
