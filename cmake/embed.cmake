# A text file as a C string: cmake -DIN=file -DOUT=header -DNAME=symbol -P embed.cmake
file(READ ${IN} text HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${text}")
file(WRITE ${OUT} "/* made from ${NAME} by cmake/embed.cmake */\nstatic const char ${NAME}[] = { ${bytes} 0 };\n")
