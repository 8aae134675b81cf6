# The plugin's kernels.c: every fatbin as bytes, and which kernels are in it, as its PTX says.
#     cmake -DDIR=folder of NAME.fatbin and NAME.compute_80.ptx -DNAMES=cast,pack4 -DOUT=file -P kernels.cmake
string(REPLACE "," ";" NAMES "${NAMES}")
set(entries "")
set(files "")
set(code "")
set(n 0)
foreach(name ${NAMES})
  file(STRINGS ${DIR}/${name}.compute_80.ptx lines REGEX "^\\.visible \\.entry ")
  foreach(line ${lines})
    string(REGEX REPLACE "^\\.visible \\.entry ([A-Za-z0-9_]+).*" "\\1" kernel "${line}")
    string(APPEND entries "    { \"${kernel}\", ${n} },\n")
  endforeach()
  string(APPEND code
    "__asm__(\".pushsection .nv_fatbin,\\\"a\\\"\\n.balign 64\\n.hidden fatbin_${name}\\n.globl fatbin_${name}\\n\"\n"
    "        \"fatbin_${name}:\\n.incbin \\\"${DIR}/${name}.fatbin\\\"\\n.popsection\\n\");\n"
    "extern const unsigned char fatbin_${name}[];\n")
  string(APPEND files "    fatbin_${name},\n")
  math(EXPR n "${n} + 1")
endforeach()
file(WRITE ${OUT} "/* made by cmake/kernels.cmake */
#include \"gpu/kernels.h\"

${code}
const unsigned char *const kernel_files[] = {
${files}};
const size_t kernel_files_n = ${n};

const struct kernel_entry kernel_entries[] = {
${entries}};
const size_t kernel_entries_n = sizeof kernel_entries / sizeof *kernel_entries;
")
