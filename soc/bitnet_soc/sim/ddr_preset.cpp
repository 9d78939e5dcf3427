#include "ddr_preset.hpp"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

// Sources: docs/performance.md. The overheads of the first two are fitted, so that four ports that
// stream together reach 92 and 82 % of the DRAM's peak.
static const DdrPreset PRESETS[] = {
    {"ug585", 169, 3.4, 160, 4, 0.26, 12, 8, 0.666, 7740, 300, 8, 0, 0, 0},
    {"conservative", 338, 3.4, 256, 4, 1.86, 24, 12, 0.666, 7740, 300, 8, 0, 0, 0},
    {"hostile", 40, 3, 0, 4, 0.34, 12, 8, 0.666, 7740, 300, 8, 0, 89, 6},
};

static const struct {
    const char *name;
    double DdrPreset::*value;
    double least, most;
} FIELDS[] = {
    {"read_ns", &DdrPreset::read_ns, 0, 1e5},
    {"read_cycles", &DdrPreset::read_cycles, 0, 1e4},
    {"write_ns", &DdrPreset::write_ns, 0, 1e5},
    {"write_cycles", &DdrPreset::write_cycles, 0, 1e4},
    {"burst_overhead", &DdrPreset::burst_overhead, 0, 1e3},
    {"row_miss", &DdrPreset::row_miss, 0, 1e3},
    {"turnaround", &DdrPreset::turnaround, 0, 1e3},
    {"pair_share", &DdrPreset::pair_share, 0.01, 1},
    {"refresh_every_ns", &DdrPreset::refresh_every_ns, 1000, 1e9},
    {"refresh_ns", &DdrPreset::refresh_ns, 0, 900},
    {"commands", &DdrPreset::commands, 1, 8},
    {"delay_least", &DdrPreset::delay_least, 0, 1e4},
    {"delay_most", &DdrPreset::delay_most, 0, 1e4},
    {"gaps", &DdrPreset::gaps, 0, 15},
};

[[noreturn]] static void refuse(const std::string &why) {
    fprintf(stderr, "%s\n", why.c_str());
    exit(2);
}

static const DdrPreset *find(const std::string &name) {
    for (const DdrPreset &preset : PRESETS)
        if (preset.name == name) return &preset;
    return nullptr;
}

static void set(DdrPreset &preset, const std::string &where, const std::string &name,
                const std::string &text) {
    char *end = nullptr;
    double number = strtod(text.c_str(), &end);
    for (const auto &field : FIELDS) {
        if (name != field.name) continue;
        if (text.empty() || *end || !(number >= field.least && number <= field.most)) {
            std::ostringstream limits;
            limits << "a number from " << field.least << " to " << field.most;
            refuse(where + ": " + name + " has to be " + limits.str());
        }
        preset.*field.value = number;
        return;
    }
    std::string known;
    for (const auto &field : FIELDS) known += std::string(known.empty() ? "" : ", ") + field.name;
    refuse(where + ": nothing is called \"" + name + "\"; there are base, " + known);
}

DdrPreset load_preset(const std::string &name_or_file) {
    if (const DdrPreset *preset = find(name_or_file)) return *preset;
    std::ifstream file(name_or_file);
    std::string line;
    if (!file || (file.peek() == EOF))
        refuse("no memory preset or file is called " + name_or_file +
               ": the presets are ug585, conservative and hostile");
    DdrPreset preset = PRESETS[0];
    preset.name = name_or_file;
    for (int number = 1, said = 0; std::getline(file, line); number++) {
        std::istringstream words(line.substr(0, line.find('#')));
        std::string name, value, more, where = name_or_file + ", line " + std::to_string(number);
        if (!(words >> name)) continue;
        words >> value;
        if (words >> more) refuse(where + " has to be a name and a number");
        if (name == "base") {
            const DdrPreset *base = find(value);
            if (!base || said) refuse(where + ": base comes first and names a preset");
            preset = *base;
            preset.name = name_or_file;
        } else {
            set(preset, where, name, value);
        }
        said++;
    }
    if (preset.delay_most < preset.delay_least)
        refuse(name_or_file + ": delay_most is less than delay_least");
    return preset;
}
