/* JSON of strangers: what is refused and how it is named; numbers and strings leave as Python's json module spells
 * them; a member can be cut out of a text that otherwise stays as it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/json.h"

#define LENGTH(array) (sizeof(array) / sizeof *(array))

static void assert_says(const struct err *e, const char *words)
{
    if (!strstr(e->msg, words))
        fail_msg("\"%s\" does not say \"%s\"", e->msg, words);
}

static json_t *good(const char *text)
{
    struct err e = { 0 };
    json_t *v = json_parse(text, strlen(text), "x.json", &e);

    if (!v)
        fail_msg("%s: %s", text, e.msg);
    return v;
}

/* ------------------------------------------------------------------------------------------------ reading */

static void refused(void **state)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        { "{\"a\": 1, \"b\": 2, \"a\": 3}", "key \"a\" is there twice, the second time at line 1, column 20" },
        { "{\"a\": 1,\n \"\\u0061\": 3}", "key \"\\u0061\" is there twice, the second time at line 2, column 9" },
        { "{\"\\u0061\": 1, \"a\": 3}", "key \"a\" is there twice" },
        { "{\"x\": {\"k\": [{\"a,\\\"b\": 1, \"a,\\\"b\": 1}]}}", "key \"a,\\\"b\" is there twice" },
        { "{\"\": 1, \"\": 3}", "key \"\" is there twice" },
        { "\xef\xbb\xbf{}", "byte order mark" },
        { "", "not valid JSON" },
        { "{", "not valid JSON" },
        { "{\"a\": 1,}", "not valid JSON" },
        { "{\n\n \"a\": nope}", "(line 3, column 10)" },
        { "{} {}", "not valid JSON" },
        { "{\"a\": NaN}", "not valid JSON" },
        { "{\"a\": 1e999}", "not valid JSON" },
        { "{\"a\": 01}", "not valid JSON" },
        { "{\"a\": \"\xff\"}", "not valid JSON" },
        { "{\"\\\xe2\x82\xac\": 1}", "not valid JSON: invalid escape" },
        { "{\"a\": \"\\ud800\"}", "not valid JSON" },
        { "{\"a\\u0000\": 1}", "not valid JSON" },
        { "\"a\"", "not valid JSON" },
    };

    (void)state;
    for (size_t i = 0; i < LENGTH(cases); i++) {
        struct err e = { 0 };
        json_t *utf8;

        assert_null(json_parse(cases[i].text, strlen(cases[i].text), "x.json", &e));
        assert_int_equal(e.kind, ERR_FORMAT);
        assert_memory_equal(e.msg, "x.json: ", 8);
        assert_says(&e, cases[i].says);
        assert_null(strchr(e.msg, '\n'));
        assert_non_null(utf8 = json_string(e.msg));
        json_decref(utf8);
    }
}

/* jansson leaves them out of its messages. */
static void long_duplicates_are_named_and_cut(void **state)
{
    static char text[2000], key[701];
    struct err e = { 0 };
    json_t *utf8;

    (void)state;
    for (size_t i = 0; i + 2 <= sizeof key - 1; i += 2)
        memcpy(key + i, "\xc3\xa9", 2);
    snprintf(text, sizeof text, "{\"%s\": 1, \"%s\": 2}", key, key);
    assert_null(json_parse(text, strlen(text), "x.json", &e));
    assert_says(&e, "key \"\xc3\xa9\xc3\xa9");
    assert_true(strlen(e.msg) < 300);
    assert_non_null(utf8 = json_string(e.msg));
    json_decref(utf8);
}

static void deep_nesting_is_refused(void **state)
{
    enum { DEPTH = 100000 };
    char *text = malloc(DEPTH);
    struct err e = { 0 };

    (void)state;
    memset(text, '[', DEPTH);
    assert_null(json_parse(text, DEPTH, "x.json", &e));
    assert_says(&e, "maximum parsing depth");
    free(text);
}

/* model_max_length of many tokenizers. */
static void integers_beyond_64_bits(void **state)
{
    static const char text[] = "{\"most\": 1000000000000000019884624838656, \"n\": 4096, \"x\": 0.5}";
    struct err e = { 0 };
    uint64_t n = 0;
    bool found;
    json_t *v = good(text);

    (void)state;
    assert_true(json_is_real(json_object_get(v, "most")));
    assert_true(json_real_value(json_object_get(v, "most")) == 1e30);
    assert_int_equal(json_get_u64(v, "n", &n, &found, &e), 0);
    assert_true(found && n == 4096);
    json_decref(v);
    assert_null(json_parse_exact(text, strlen(text), "x.json", &e));
    assert_says(&e, "x.json: not valid JSON: too big integer");
}

static void integers_of_64_bits_stay_exact(void **state)
{
    static const char text[] = "[9223372036854775807, -9223372036854775808, 9007199254740993]";
    json_t *v = good(text);
    struct str s = { 0 };

    (void)state;
    json_print(&s, v, false, false);
    assert_string_equal(str_text(&s), text);
    str_release(&s);
    json_decref(v);
}

/* The retry for big integers does not let duplicates through. */
static void big_integers_and_duplicates(void **state)
{
    static const char text[] = "{\"a\": 99999999999999999999, \"a\": 1}";
    struct err e = { 0 };

    (void)state;
    assert_null(json_parse(text, strlen(text), "x.json", &e));
    assert_says(&e, "key \"a\" is there twice");
}

static void members_by_type(void **state)
{
    json_t *v = good("{\"n\": 7, \"r\": 4096.0, \"half\": 0.5, \"minus\": -1, \"huge\": 1e300, \"yes\": true,"
                     " \"s\": \"text\", \"null\": null, \"list\": [], \"obj\": {}}");
    struct err e = { 0 };
    uint64_t n = 1;
    double d = 1;
    bool b = false, found;
    const char *s = NULL;

    (void)state;
    assert_true(!json_get_u64(v, "n", &n, &found, &e) && found && n == 7);
    assert_true(!json_get_u64(v, "r", &n, &found, &e) && found && n == 4096);
    assert_true(!json_get_u64(v, "null", &n, &found, &e) && !found && n == 4096);
    assert_true(!json_get_u64(v, "absent", &n, &found, &e) && !found && n == 4096);
    assert_true(!json_get_double(v, "n", &d, &found, &e) && found && d == 7);
    assert_true(!json_get_double(v, "half", &d, &found, &e) && found && d == 0.5);
    assert_true(!json_get_double(v, "null", &d, &found, &e) && !found && d == 0.5);
    assert_true(!json_get_bool(v, "yes", &b, &found, &e) && found && b);
    assert_true(!json_get_bool(v, "absent", &b, &found, &e) && !found && b);
    assert_true(!json_get_string(v, "s", &s, &found, &e) && found && !strcmp(s, "text"));
    assert_true(!json_get_string(v, "null", &s, &found, &e) && !found);
    assert_int_equal(e.kind, ERR_NONE);
    json_decref(v);
}

#define REFUSES(call, says)                                                                                            \
    do {                                                                                                               \
        e = (struct err){ 0 };                                                                                         \
        assert_int_equal(call, -1);                                                                                    \
        assert_string_equal(e.msg, says);                                                                              \
    } while (0)

static void members_of_another_type(void **state)
{
    json_t *v = good("{\"half\": 0.5, \"minus\": -1, \"huge\": 1e300, \"yes\": true, \"s\": \"4\", \"list\": []}");
    struct err e;
    uint64_t n;
    double d;
    bool b, found;
    const char *s;

    (void)state;
    REFUSES(json_get_u64(v, "half", &n, &found, &e), "\"half\" is 0.5, expected a whole number of at least 0");
    REFUSES(json_get_u64(v, "minus", &n, &found, &e), "\"minus\" is -1, expected a whole number of at least 0");
    REFUSES(json_get_u64(v, "huge", &n, &found, &e), "\"huge\" is 1e+300, expected a whole number of at least 0");
    REFUSES(json_get_u64(v, "s", &n, &found, &e), "\"s\" is a string, expected a whole number");
    REFUSES(json_get_double(v, "yes", &d, &found, &e), "\"yes\" is true or false, expected a number");
    REFUSES(json_get_bool(v, "minus", &b, &found, &e), "\"minus\" is an integer, expected true or false");
    REFUSES(json_get_string(v, "list", &s, &found, &e), "\"list\" is a list, expected a string");
    assert_string_equal(json_type_name(NULL), "nothing");
    json_decref(v);
}

/* ------------------------------------------------------------------------------------------------ writing */

/* From Python: print("{ %s, \"%s\" }," % (x.hex(), json.dumps(x))). Among them powers of two, where doubles lie half as
 * dense above as below, subnormals, the largest, bounds between the two layouts, and random ones. */
static void numbers_as_python_spells_them(void **state)
{
    static const struct {
        double v;
        const char *text;
    } cases[] = {
        { 0x0.0p+0, "0.0" },
        { -0x0.0p+0, "-0.0" },
        { 0x1.0000000000000p+0, "1.0" },
        { -0x1.8000000000000p+0, "-1.5" },
        { 0x1.999999999999ap-4, "0.1" },
        { 0x1.4f8b588e368f1p-17, "1e-05" },
        { 0x1.a36e2eb1c432dp-14, "0.0001" },
        { 0x1.f75104d551d69p-14, "0.00012" },
        { 0x1.e240c00000000p+16, "123456.75" },
        { 0x1.c6bf526340000p+49, "1000000000000000.0" },
        { 0x1.1c37937e08000p+53, "1e+16" },
        { 0x1.aa535d3d0c000p+53, "1.5e+16" },
        { 0x1.1c37937e07fffp+53, "9999999999999998.0" },
        { 0x1.b69b4ba630f35p+56, "1.2345678901234568e+17" },
        { 0x1.0f0cf064dd592p+73, "1e+22" },
        { 0x1.52d02c7e14af6p+76, "1e+23" },
        { 0x0.0000000000001p-1022, "5e-324" },
        { 0x1.0000000000000p-1022, "2.2250738585072014e-308" },
        { 0x1.fffffffffffffp+1023, "1.7976931348623157e+308" },
        { 0x1.3333333333334p-2, "0.30000000000000004" },
        { 0x1.0000000000000p+53, "9007199254740992.0" },
        { 0x1.0c6f7a0b5ed8dp-20, "1e-06" },
        { 0x1.fffffe0000000p+127, "3.4028234663852886e+38" },
        { 0x1.5555555555555p-2, "0.3333333333333333" },
        { 0x1.0000000000000p-24, "5.960464477539063e-08" },
        { 0x1.e848000000000p+18, "500000.0" },
        { 0x1.3880000000000p+13, "10000.0" },
        { 0x1.249ad2594c37dp+332, "1e+100" },
        { 0x1.0d1eb851eb852p+3, "8.41" },
        { 0x1.0000000000000p+60, "1.152921504606847e+18" },
        { 0x1.0000000000000p+89, "6.189700196426902e+26" },
        { 0x1.0000000000000p-44, "5.684341886080802e-14" },
        { 0x1.0000000000000p+122, "5.316911983139664e+36" },
        { 0x1.0000000000000p-20, "9.5367431640625e-07" },
        { 0x1.b1ae4d6e2ef50p+69, "1e+21" },
        { 0x1.0000000000000p-537, "2.2227587494850775e-162" },
        { 0x1.0000000000000p-100, "7.888609052210118e-31" },
        { 0x1.0000000000000p-1, "0.5" },
        { 0x1.0000000000000p+24, "16777216.0" },
        { 0x1.0000000000000p+54, "1.8014398509481984e+16" },
        { 0x1.0000000000000p+63, "9.223372036854776e+18" },
        { 0x1.0000000000000p+64, "1.8446744073709552e+19" },
        { 0x1.0000000000000p+87, "1.5474250491067253e+26" },
        { 0x1.0000000000000p+98, "3.1691265005705735e+29" },
        { 0x1.0000000000000p+113, "1.0384593717069655e+34" },
        { 0x1.0000000000000p+500, "3.273390607896142e+150" },
        { 0x1.0000000000000p+976, "6.386688990511104e+293" },
        { 0x1.0000000000000p+1023, "8.98846567431158e+307" },
        { -0x1.74de452e6b438p-213, "-1.1064361446309676e-64" },
        { 0x1.3270e269e0d37p-430, "4.317264989099188e-130" },
        { 0x1.c7fd0a6a3a450p-826, "3.980498358697587e-249" },
        { -0x1.f0824128b2f33p-732, "-8.584799662442137e-221" },
        { 0x1.8e811892f902bp-638, "1.3647584518757569e-192" },
        { -0x1.1985d5d9dc9f8p-684, "-1.3701135617873088e-206" },
        { -0x1.25d940ed90475p-369, "-9.545865919869867e-112" },
        { 0x1.675cc81e74ef5p-144, "6.294675241195386e-44" },
        { 0x1.0a35a099950d8p-671, "1.0613447212142254e-202" },
        { 0x1.d549b6f03675ap-335, "2.6190928079325138e-101" },
        { 0x1.c172411e20b8fp-38, "6.387016158513563e-12" },
        { -0x1.16ece1738f7d9p-814, "-9.973130378568733e-246" },
        { 0x1.1ddb66cad4a26p-781, "8.779753225680271e-236" },
        { -0x1.192cfd3ac94afp-755, "-5.795503248498993e-228" },
        { -0x1.c105d1fb17c23p-215, "-3.331035783170325e-65" },
        { -0x1.0b33839263059p-488, "-1.306052388527796e-147" },
        { -0x1.f48f1a09f76b5p-684, "-2.436117699484841e-206" },
        { 0x1.630f1f29d0da9p-770, "2.233386999150174e-232" },
        { -0x1.60af593bd04cfp-673, "-3.51527970626667e-203" },
        { 0x1.1e29c658cda14p-820, "1.5987381841032883e-247" },
        { 0x1.8d190f9ebdaccp-118, "4.6678633181812096e-36" },
        { -0x1.1973e0becd7b0p-791, "-8.441872792105456e-239" },
        { 0x1.7beaddbc496cbp-478, "1.9015657400796622e-144" },
        { 0x1.cb2424a23d596p-331, "4.0999420633995917e-100" },
        { -0x1.a63ec24ede6a4p-857, "-1.7163996725272777e-258" },
        { -0x1.753ff0c352f28p+19, "-764415.5238432633" },
        { -0x1.760f1683d3ebap+18, "-383036.35179613123" },
        { 0x1.34b796fbd2958p+19, "632252.7182400627" },
        { -0x1.37ca67af53826p+19, "-638547.240152125" },
        { 0x1.3ec029e5c88c0p+17, "163200.32732493244" },
        { 0x1.0f50bc05c5f08p+18, "277826.9378523682" },
        { -0x1.f272750fed2dcp+17, "-255204.91454853758" },
        { 0x1.7500ee717bb10p+16, "95488.93141911575" },
        { -0x1.aaf6c19a097dap+19, "-874422.0500533537" },
        { -0x1.ae13b51f45f35p+19, "-880797.6600675347" },
        { -0x1.1f2652612b0c2p+19, "-588082.5743613469" },
        { 0x1.6057fc913883cp+18, "360799.9463635718" },
        { -0x1.1ad7b1bfa6674p+17, "-144815.38866119424" },
        { -0x1.6afe6a3117e24p+18, "-371705.659246417" },
        { 0x1.4e39dd0ed62c0p+17, "171123.72701527737" },
    };

    (void)state;
    for (size_t i = 0; i < LENGTH(cases); i++) {
        json_t *v = json_real(cases[i].v);
        struct str s = { 0 };

        json_print(&s, v, false, false);
        assert_string_equal(str_text(&s), cases[i].text);
        str_release(&s);
        json_decref(v);
    }
}

/* A host program's decimal comma stays out of our JSON; where no such locale is installed there is nothing to see. */
static void numbers_whatever_the_locale(void **state)
{
    static const char *const names[] = { "de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8" };
    bool set = false;

    (void)state;
    for (size_t i = 0; i < LENGTH(names) && !set; i++)
        set = setlocale(LC_NUMERIC, names[i]);
    if (!set)
        skip();
    numbers_as_python_spells_them(state);
    setlocale(LC_NUMERIC, "C");
}

static void layouts(void **state)
{
    json_t *v = good("{\"b\":[1,true,null,[],{}],\"a\":{\"k\":1e-5},\"b2\":false}");
    struct str s = { 0 };

    (void)state;
    json_print(&s, v, false, false); /* json.dumps(v) */
    assert_string_equal(str_text(&s), "{\"b\": [1, true, null, [], {}], \"a\": {\"k\": 1e-05}, \"b2\": false}");
    str_release(&s);
    json_print(&s, v, true, false); /* json.dumps(v, indent=2) */
    assert_string_equal(str_text(&s), "{\n  \"b\": [\n    1,\n    true,\n    null,\n    [],\n    {}\n  ],\n"
                                      "  \"a\": {\n    \"k\": 1e-05\n  },\n  \"b2\": false\n}");
    str_release(&s);
    json_decref(v);
}

/* json.dumps(v) and json.dumps(v, ensure_ascii=False) */
static void strings_as_python_spells_them(void **state)
{
    json_t *v = good("[\"\\u0001\\b\\t\\n\\f\\r\\u001f\\\"\\\\\\/\x7f\", \"\xc3\xa9\xe2\x82\xac\xef\xbf\xbd\","
                     " \"\xf0\x9d\x84\x9e\xf4\x8f\xbf\xbf\"]");
    struct str s = { 0 };

    (void)state;
    json_print(&s, v, false, true);
    assert_string_equal(str_text(&s), "[\"\\u0001\\b\\t\\n\\f\\r\\u001f\\\"\\\\/\x7f\", \"\\u00e9\\u20ac\\ufffd\","
                                      " \"\\ud834\\udd1e\\udbff\\udfff\"]");
    str_release(&s);
    json_print(&s, v, false, false);
    assert_string_equal(str_text(&s),
                        "[\"\\u0001\\b\\t\\n\\f\\r\\u001f\\\"\\\\/\x7f\", \"\xc3\xa9\xe2\x82\xac\xef\xbf\xbd\","
                        " \"\xf0\x9d\x84\x9e\xf4\x8f\xbf\xbf\"]");
    str_release(&s);
    json_decref(v);
}

/* ------------------------------------------------------------------------------------------------ cutting */

static void check_cut(const char *text, const char *key, const char *expected)
{
    size_t n = strlen(text), begin, end;
    char *block = malloc(n); /* ends where the text ends */
    struct str rest = { 0 };

    memcpy(block, text, n);
    if (!json_find_member(block, n, key, &begin, &end))
        fail_msg("%s: %s not found", text, key);
    assert_true(begin <= end && end <= n);
    str_add(&rest, block, begin);
    str_add(&rest, block + end, n - end);
    assert_string_equal(str_text(&rest), expected);
    json_decref(good(str_text(&rest)));
    str_release(&rest);
    free(block);
}

static void members_are_cut_with_their_comma(void **state)
{
    static const struct {
        const char *text, *key, *rest;
    } cases[] = {
        { "{\"a\":1,\"b\":2,\"c\":3}", "a", "{\"b\":2,\"c\":3}" },
        { "{\"a\":1,\"b\":2,\"c\":3}", "b", "{\"a\":1,\"c\":3}" },
        { "{\"a\":1,\"b\":2,\"c\":3}", "c", "{\"a\":1,\"b\":2}" },
        { "{\"a\":1}", "a", "{}" },
        { " \n{ \"a\" : 1 } \n", "a", " \n{  } \n" },
        { "{\n  \"a\": 1,\n  \"b\": 2,\n  \"c\": 3\n}\n", "a", "{\n  \"b\": 2,\n  \"c\": 3\n}\n" },
        { "{\n  \"a\": 1,\n  \"b\": 2,\n  \"c\": 3\n}\n", "b", "{\n  \"a\": 1,\n  \"c\": 3\n}\n" },
        { "{\n  \"a\": 1,\n  \"b\": 2,\n  \"c\": 3\n}\n", "c", "{\n  \"a\": 1,\n  \"b\": 2\n}\n" },
        { "{\"a\" :\t1 ,\r\n\"b\"\n:\n2 }", "a", "{\"b\"\n:\n2 }" },
        { "{\"a\" :\t1 ,\r\n\"b\"\n:\n2 }", "b", "{\"a\" :\t1  }" },
        { "{\"x\":{\"a\":1},\"a\":2}", "a", "{\"x\":{\"a\":1}}" }, /* the top level's own */
        { "{\"x\":[{\"a\":1}],\"a\":2,\"y\":0}", "a", "{\"x\":[{\"a\":1}],\"y\":0}" },
        { "{\"x\":\"a\",\"a\":\"x\"}", "a", "{\"x\":\"a\"}" }, /* a key, not a value */
        { "{\"\\u0061\":1,\"b\":2}", "a", "{\"b\":2}" },       /* however it is spelled */
        { "{\"q\\\"}\":1,\"a\":2}", "a", "{\"q\\\"}\":1}" },
        { "{\"q\\\"}\":1,\"a\":2}", "q\"}", "{\"a\":2}" },
        { "{\"a\":{\"k\":[1,2,{\"z\":\"},]\"}]},\"b\":2}", "a", "{\"b\":2}" },
        { "{\"b\":2,\"a\":[[],[\"\\\\\"],{}]}", "a", "{\"b\":2}" },
        { "{\"b\":2,\"a\":\"}\\\"{,\"}", "a", "{\"b\":2}" },
        { "{\"aa\":1,\"a\":2}", "a", "{\"aa\":1}" },
        { "{\"\":1,\"a\":2}", "", "{\"a\":2}" },
        { "{\"caf\xc3\xa9\":1,\"a\":-1.5e3}", "caf\xc3\xa9", "{\"a\":-1.5e3}" },
    };

    (void)state;
    for (size_t i = 0; i < LENGTH(cases); i++)
        check_cut(cases[i].text, cases[i].key, cases[i].rest);
}

static void members_that_are_not_there(void **state)
{
    static const char *const texts[] = { "",   "  ", "{",     "{}",        "[\"a\"]",       "{\"b\":{\"a\":1}}",
                                         "[]", "1",  "\"a\"", "{\"A\":1}", "{\"b\":\"a\"}", "{\"b\":[\"a\",1]}" };
    size_t begin, end;

    (void)state;
    for (size_t i = 0; i < LENGTH(texts); i++)
        assert_false(json_find_member(texts[i], strlen(texts[i]), "a", &begin, &end));
}

/* Valid JSON is the caller's promise; a text cut anywhere must still not be read beyond its end. */
static void texts_that_end_early(void **state)
{
    static const char text[] = " {\"b\\\"\": [1, {\"x\": \"\\\\\"}], \"a\": {\"k\": 2}, \"c\": null } ";
    size_t begin, end;

    (void)state;
    for (size_t n = 0; n < sizeof text; n++) {
        char *block = malloc(n ? n : 1);

        memcpy(block, text, n);
        if (json_find_member(block, n, "a", &begin, &end))
            assert_true(begin <= end && end <= n);
        json_find_member(block, n, "c", &begin, &end);
        free(block);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refused),
        cmocka_unit_test(long_duplicates_are_named_and_cut),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(integers_beyond_64_bits),
        cmocka_unit_test(integers_of_64_bits_stay_exact),
        cmocka_unit_test(big_integers_and_duplicates),
        cmocka_unit_test(members_by_type),
        cmocka_unit_test(members_of_another_type),
        cmocka_unit_test(numbers_as_python_spells_them),
        cmocka_unit_test(numbers_whatever_the_locale),
        cmocka_unit_test(layouts),
        cmocka_unit_test(strings_as_python_spells_them),
        cmocka_unit_test(members_are_cut_with_their_comma),
        cmocka_unit_test(members_that_are_not_there),
        cmocka_unit_test(texts_that_end_early),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
