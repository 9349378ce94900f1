"""Chat templates: what transformers renders of expressions and of templates that use what published ones use.

`renderings.json` has cases of a template with messages, variables and what `apply_chat_template` makes of them. The
expressions go through what differs between Jinja2 and other engines: how Python prints, what tests hold, what methods and
filters give. All templates are written for this test.
"""
import json

from transformers.utils.chat_template_utils import render_jinja_template

TOOLS = [{
    "type": "function",
    "function": {
        "name": "weather", "description": "Says the weather's \"mood\" <now> & later",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "Ort, z.B. Köln", "enum": ["Köln", "東京"]},
                "days": {"type": ["integer", "null"], "default": None, "minimum": 0.5},
                "exact": {"type": "boolean", "default": True},
            },
            "required": ["place"],
        },
    },
}, {"type": "function", "function": {"name": "clock", "description": "", "parameters": {}}}]
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": {"place": "Köln", "days": 2, "exact": False, "more": None, "list": [1, 2.5, "x"]}}}
WRITTEN_CALL = {"id": "call_2", "type": "function", "function": {"name": "clock", "arguments": "{\"zone\": \"CET\"}"}}


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


SYSTEM = {"role": "system", "content": "Be brief.\n"}
# Name, messages, variables, whether the answer is opened.
CHATS = [
    ("user", [user("Hi")], {}, False),
    ("opened", [user("  Hi there \n")], {}, True),
    ("system", [SYSTEM, user("Hi"), assistant("Hello.")], {}, False),
    ("turns", [SYSTEM, user("Hi"), assistant("Hello."), user("Why?"), assistant(" Because.\n\n"), user("<b>Ä&\"'</b>")], {}, True),
    ("tools", [SYSTEM, user("Rain?")], {"tools": TOOLS}, True),
    ("calls", [user("Rain?"), assistant("", tool_calls=[CALL]), {"role": "tool", "name": "weather", "tool_call_id": "call_1", "content": "{\"rain\": true}"}, assistant("Yes.")], {"tools": TOOLS}, False),
    ("two calls", [SYSTEM, user("Rain?"), assistant(None, tool_calls=[CALL, CALL]), {"role": "tool", "name": "weather", "content": "wet"}, {"role": "tool", "name": "weather", "content": "dry"}], {"tools": TOOLS}, True),
    ("written call", [user("Time?"), assistant("One moment.", tool_calls=[WRITTEN_CALL]), {"role": "tool", "content": "12:00", "tool_call_id": "call_2"}], {"tools": TOOLS}, True),
    ("reasoning", [user("2+2?"), assistant("4", reasoning_content="Add them."), user("3+3?"), assistant("6", reasoning_content="Again.\n")], {}, False),
    ("thinking", [user("2+2?"), assistant("4", thinking="Add them.")], {}, False),
    ("think tags", [user("2+2?"), assistant("<think>\nAdd.\n</think>\n\n4"), user("And?")], {"enable_thinking": False}, True),
    ("thinks", [user("2+2?")], {"enable_thinking": True}, True),
    ("parts", [user([{"type": "text", "text": "What is "}, {"type": "text", "text": "it?"}]), assistant([{"type": "text", "text": "A cat."}])], {}, False),
    ("image", [user([{"type": "image"}, {"type": "text", "text": "What?"}])], {}, True),
    ("empty", [user("Hi"), assistant("")], {}, False),
    ("empty calls", [user("Hi"), assistant("Hello", tool_calls=[])], {}, False),
    ("developer", [{"role": "developer", "content": "Obey."}, user("Hi")], {}, True),
    ("two systems", [SYSTEM, user("Hi"), SYSTEM, user("Ho")], {}, True),
    ("no tools", [user("Hi")], {"tools": []}, True),
    ("documents", [user("Hi")], {"documents": [{"title": "T", "text": "Long."}]}, True),
]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}

NAMES = {
    "lst": [3, 1, 2], "words": ["b", "A", "c"], "dct": {"b": 1, "a": None, "C": [True, 1.5]}, "empty": [], "no": None, "yes": True,
    "num": 7, "neg": -7, "flt": 2.5, "big": 1e16, "small": 1e-5, "txt": "It's a \"test\"\n", "plain": "hello world", "uni": "Köln 東京 🎉\u200b",
    "rows": [{"k": "x", "v": 1}, {"k": "y", "v": 2}, {"k": "X", "v": 3}], "nested": {"a": {"b": [{"c": "deep"}]}}, "spaces": "  a  b\tc \n",
    "int_text": "42", "huge": 12345678901234567890, "items_dict": {"items": [1], "keys": "k", "get": 2}, "tup": [[1, "a"], [2, "b"]],
}
EXPRESSIONS = r"""
lst|||dct|||no|||yes|||num|||flt|||big|||small|||txt|||[txt]|||[uni]|||uni|||rows|||huge|||1e300|||-0.0|||1.0|||100000.0|||1e15|||123456789.125
[no, yes, 1.0, 'a']|||(1, 2)|||(1,)|||()|||{}|||[]|||{'a': 1, 2: 'b', none: 1.5}|||dct.items()|||dct.keys()|||dct.values()|||dct.items()|list|||dct|items|list|||dct|list|||range(3)|||range(1, 7, 2)|||range(5)|list
'x' ~ no ~ yes ~ 1.0 ~ lst ~ dct|||'' ~ missing ~ ''|||no|string|||lst|string|||dct|string|||lst|join(', ')|||[no, true, 1.5]|join('-')|||lst|join|||rows|join(',', attribute='k')|||'abc'|join('.')
no is iterable|||'str' is iterable|||lst is iterable|||dct is iterable|||5 is iterable|||missing is iterable|||no is sequence|||'str' is sequence|||lst is sequence|||dct is sequence|||5 is sequence|||range(3) is sequence|||dct.items() is sequence|||lst|map('string') is sequence|||missing is sequence
dct is mapping|||lst is mapping|||no is mapping|||'s' is mapping|||missing is mapping|||no is none|||missing is none|||missing is defined|||missing is undefined|||no is defined|||missing is not defined|||yes is true|||1 is true|||yes is boolean|||0 is boolean|||yes is integer|||1 is integer|||1.0 is integer|||1.0 is float|||yes is number|||'1' is number|||1 is number|||'a' is string|||lst is string|||missing is string
5 is odd|||4 is even|||9 is divisibleby 3|||9 is divisibleby(4)|||'a' is lower|||'A' is upper|||'aB' is lower|||1 is eq 1|||1 is ne 1|||2 is gt 1|||2 is lessthan 1|||2 is in [1, 2]|||2 is not in [1, 2]|||'upper' is filter|||'nope' is filter|||'odd' is test|||none is sameas none|||yes is sameas true|||1 is sameas true|||range is callable|||lst is callable|||'x'|escape is escaped
2.5|round|||3.5|round|||2.675|round(2)|||7|round|||7|round(1)|||-2.5|round|||1234|round(-2)|||1250.0|round(-2)|||2.123|round(1, 'ceil')|||2.19|round(1, 'floor')|||7|round(0, 'ceil')|||num / 2|||num // 2|||neg // 2|||num % 3|||neg % 3|||7.5 // 2|||-7.5 % 2|||2 ** 10|||2 ** -1|||2 ** 0.5|||7 / 7|||1 + yes|||yes + yes|||0.1 + 0.2|||10 * 1.5|||-num|||+num|||1 - -1|||2 + 3 * 4 - 1|||(2 + 3) * 4|||2 ** 3 ** 2|||-2 ** 2|||not 1 == 2|||not no and yes
'a' * 3|||3 * 'a'|||[1] * 3|||[1] + [2]|||(1,) + (2,)|||'a' + 'b'|||'%s and %d' % ('x', 3)|||'%5.2f|%-5s|%05d|%x|%r|%%' % (2.345, 'a', 42, 255, 'q')|||'%s' % lst|||'%(k)s' % rows[0]|||'%s'|format(no)|||'%+d % d'|format(3, 4)|||'%e'|format(12345.678)|||'%g'|format(0.00001234)|||'%g'|format(123456789)|||'%c'|format(65)|||'%10s|'|format('ab')|||'%.2s'|format('abc')|||'%o'|format(8)|||'%#x'|format(255)
'{} {}'.format(1, 'a')|||'{1} {0}'.format('a', 'b')|||'{a}'.format(a=lst)|||'{0[0]} {1[k]}'.format(lst, rows[0])|||'{:>5}|{:<5}|{:^5}|'.format('a', 'b', 'c')|||'{:*^7}'.format('mid')|||'{:.2f} {:05d} {:,} {:e} {:%}'.format(2.345, 42, 1234567, 12345.678, 0.25)|||'{:x} {:#x} {:b} {:o} {:X}'.format(255, 255, 5, 8, 255)|||'{!r} {!s}'.format('a', 'b')|||'{{}} {}'.format(1)|||'{:+} {: }'.format(3, 4)|||'{:{}}'.format('a', 4)|||'{:g}'.format(1e10)|||'{:.3}'.format('abcdef')|||'{}'.format(yes)|||'{:>8.3f}'.format(3.14159)|||'{:_}'.format(1234567)|||'{:010.3f}'.format(-3.14159)|||'{:n}'.format(5)|||'{:.3}'.format(3.14159)
1 == 1.0|||yes == 1|||'1' == 1|||lst == [3, 1, 2]|||dct == dct|||no == missing|||missing == missing2|||(1, 2) == [1, 2]|||{'a': 1} == {'a': 1.0}|||1 != 2|||1 < 2 < 3|||1 < 3 < 2|||'a' < 'b'|||[1, 2] < [1, 3]|||2 in lst|||'b' in dct|||'ell' in 'hello'|||'z' not in 'abc'|||1 in dct.values()|||1 in missing|||'a' in ['A', 'a']|||no in [none]|||1.0 in [1]|||3 in range(5)
lst[0]|||lst[-1]|||lst[5]|||lst[1:]|||lst[::-1]|||lst[:-1]|||lst[-2:]|||lst[::2]|||lst[5:]|||txt[0]|||plain[1:4]|||plain[::-1]|||plain[-5:]|||plain[100]|||plain[:2] ~ plain[2:]|||dct['b']|||dct.b|||dct.zzz|||dct['zzz']|||nested.a.b[0].c|||nested['a']['b'][0]['c']|||items_dict.items()|list|||items_dict['items']|||items_dict.keys()|list|||items_dict.get('get')|||lst.0|||tup[1][1]|||(1, 2, 3)[1:]|||lst[2 - 1]|||plain[2:-2:2]|||rows[-1].k
plain.split()|||plain.split('o')|||plain.split('o', 1)|||plain.rsplit('o', 1)|||spaces.split()|||spaces.split(none, 1)|||spaces.rsplit(none, 1)|||'a,b,,c'.split(',')|||''.split()|||''.split(',')|||'abc'.split('')  is defined|||'</think>a</think>b'.split('</think>')[-1]|||'a\nb\r\nc'.splitlines()|||'a\nb\n'.splitlines(true)|||plain.partition(' ')|||plain.rpartition('o')|||plain.partition('z')|||plain.rpartition('z')
spaces.strip()|||spaces.lstrip()|||spaces.rstrip()|||'xxabxx'.strip('x')|||'\n\nab\n'.lstrip('\n')|||'xyabyx'.rstrip('xy')|||plain.startswith('he')|||plain.startswith(('z', 'he'))|||plain.endswith('ld')|||plain.startswith('l', 2)|||plain.find('o')|||plain.find('z')|||plain.rfind('o')|||plain.index('w')|||plain.count('l')|||plain.replace('l', 'L')|||plain.replace('l', 'L', 1)|||plain.upper()|||'ÄÖß'.lower()|||'ß'.upper()|||plain.title()|||"it's tim".title()|||plain.capitalize()|||'aBC'.swapcase()|||plain.center(15, '*')|||'a'.center(4)|||'ab'.center(5)|||'a'.ljust(3) ~ '|'|||'a'.rjust(3)|||'42'.zfill(5)|||'-42'.zfill(5)|||'abc'.isalpha()|||'12'.isdigit()|||'a1'.isalnum()|||' '.isspace()|||''.isspace()|||'Abc'.istitle()|||'ABC'.isupper()|||'abc'.islower()|||', '.join(['a', 'b'])|||''.join(words)|||plain.removeprefix('hello ')|||plain.removesuffix('x')|||'a\tb'.expandtabs(4)|||'Ab'.casefold()|||'a{}'.format('b').upper()|||'12'.isdecimal()|||'abc'.isascii()
dct.get('b')|||dct.get('zzz')|||dct.get('zzz', 'other')|||dct.get('a', 'other')|||dct.copy()|||lst.index(1)|||lst.count(3)|||dct.items is defined|||dct.update|||lst.append is defined|||dct.pop is defined|||lst.copy()
lst|length|||dct|length|||plain|length|||uni|length|||missing|length|||range(4)|length|||dct.items()|length|||lst|first|||lst|last|||''|first|||empty|first|||plain|first|||plain|last|||dct|first|||lst|sort|||words|sort|||words|sort(case_sensitive=true)|||lst|sort(reverse=true)|||rows|sort(attribute='v', reverse=true)|||rows|sort(attribute='k,v')|||lst|max|||lst|min|||words|max|||rows|max(attribute='v')|||empty|max|||lst|sum|||rows|sum(attribute='v')|||rows|sum(attribute='v', start=10)|||lst|reverse|list|||plain|reverse|||lst|unique|list|||words|unique|list|||[1, 1.0, true, 'a', 'A']|unique|list|||dct|dictsort|||dct|dictsort(true)|||dct|dictsort(reverse=true)|||{'x': 2, 'y': 1}|dictsort(by='value')
rows|map(attribute='k')|list|||rows|map(attribute='zz', default='d')|list|||words|map('upper')|list|||words|map('upper')|join(',')|||lst|map('string')|list|||lst|select('odd')|list|||lst|reject('odd')|list|||[0, 1, '', 'a']|select|list|||rows|selectattr('v', 'gt', 1)|list|||rows|selectattr('k', 'equalto', 'x')|map(attribute='v')|list|||rows|rejectattr('k', 'in', ['x'])|list|||rows|selectattr('zz', 'defined')|list|||rows|selectattr('zz')|list|||rows|groupby('k')|||rows|groupby('k')|map('first')|list|||rows|groupby('k', case_sensitive=true)|map(attribute='grouper')|list|||rows|groupby('k')|map(attribute='list')|map('length')|list|||lst|batch(2)|list|||lst|batch(2, 'x')|list|||lst|slice(2)|list|||lst|slice(2, 'x')|list|||range(7)|slice(3)|list|||nested|map('upper')|list|||empty|map('zzz')|list|||missing|map('upper')|list
missing|default('d')|||no|default('d')|||no|default('d', true)|||''|d('x', true)|||missing|default|||plain|upper|||'ABC'|lower|||'hELLO wORLD'|capitalize|||"hello-world it's (me)"|title|||spaces|trim|||'xxaxx'|trim('x')|||no|upper|||5|trim|||plain|replace('o', '0')|||plain|replace('o', '0', 1)|||5|replace('5', 'x')|||'a\nb\n\nc'|indent|||'a\nb\n\nc'|indent(2, true)|||'a\n\nc'|indent(2, blank=true)|||'a\nb'|indent('> ')|||'a\nb\n'|indent(2)|||'a long text with words'|truncate(12)|||'a long text with words'|truncate(12, true)|||'a long text with words'|truncate(12, false, '')|||plain|truncate(10)|||plain|center(15)|||plain|wordcount|||'a long text with words and more'|wordwrap(10)|||'averylongwordindeed x'|wordwrap(8)|||'well-known facts here'|wordwrap(8)
'42'|int|||'4.9'|int|||'x'|int|||'x'|int(7)|||'ff'|int(base=16)|||'0x1f'|int(0, 16)|||4.9|int|||yes|int|||'1e3'|int|||'1.5'|float|||'x'|float|||'x'|float(2.5)|||no|float|||3|float|||-5|abs|||-5.5|abs|||num|string|||1.10|string|||'<b>&"\''|escape|||'<b>'|e|||'<b>'|safe|||'<b>'|safe ~ '<i>'|||('<b>'|safe) + '<i>'|||'<b>'|escape|upper|||'<b>x</b> y'|striptags|||'a b/c&d=ä'|urlencode|||{'a': 'x y', 'b': 1}|urlencode|||1000|filesizeformat|||123456789|filesizeformat|||1|filesizeformat|||2048|filesizeformat(true)|||lst|pprint|||plain|attr('zz')|||dct|list|first
lst|tojson|||dct|tojson|||txt|tojson|||uni|tojson|||uni|tojson(ensure_ascii=true)|||dct|tojson(indent=2)|||nested|tojson(indent=4)|||[]|tojson(indent=2)|||{}|tojson(indent=2)|||dct|tojson(separators=(',', ':'))|||dct|tojson(sort_keys=true)|||[[], {}]|tojson(indent=1)|||'</script>'|tojson|||no|tojson|||1.0|tojson|||big|tojson|||{1: 2, none: 3, true: 4, 1.5: 5}|tojson|||(1, 2)|tojson|||rows|tojson(indent=0)|||'\x07\x7f\u2028'|tojson|||'\x07\x7f\u2028é'|tojson(true)|||lst|tojson(indent='\t')
'a' if yes|||'a' if no|||('a' if no) is undefined|||'a' if no else 'b'|||'a' if yes else missing.x|||no or 'x'|||'' or [] or 0|||1 and 'x'|||no and missing.x|||yes and (no or 'z')|||missing or 'd'|||not missing|||not lst|||lst and 'some'|||[] == empty|||dict(a=1, b=2)|||dict({'x': 1}, y=2)|||dict([('a', 1)])|||namespace(a=1).a|||namespace(a=1).zz is defined|||lst|list == lst
"a" 'b'|||'tab\there'|||'q\'q'|||"\u00e9\x41\101"|||'\d\n'|||1_000|||0xff|||0b101|||0o17|||1.5e3|||1e-7|||[1, 2,]|||{'a': 1,}|||lst | sort | join('') | upper|||lst|map('string')|map('upper')|join|||(lst|first) + 1|||lst|first + 1|||'%s' % 'a' ~ 'b'|||-lst|first|||3 - 2 - 1|||2 * 3 ~ 'x'|||1 ~ 2 + 3|||loop is defined|||messages|length|||messages[0].content|||messages[0]['role']|||add_generation_prompt|||tools is none|||tools is defined|||documents is none|||bos_token ~ eos_token|||(tools is iterable and tools|length > 0)|||tools is not none and tools is iterable|||range(3)|map('string')|join(',')|||range(2, 5)[1]|||range(3)|last|||[1, [2, [3, 'x']]]|||{'a': {'b': (1, none)}}|||"it's"|list|||['"', "'", "'\""]|||['\\', '\n\t\r', '\x00\x1f\x7f', 'é\xa0\xad', '\u200b\ufeff', '🎉']
""".strip()
STATEMENTS = r"""
{% for x in lst %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ x }};{% endfor %}
{% for x in lst %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }};{% endfor %}
{% for x in lst %}{% if loop.previtem is defined and loop.previtem > x %}down{% endif %}{% if not loop.last and loop.nextitem == 2 %}[next]{% endif %}{% endfor %}
{% for x in lst if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }}{{ loop.last }} {% else %}none{% endfor %}
{% for x in empty %}x{% else %}none{% endfor %}
{% for x in no or [] %}x{% else %}none{% endfor %}
{% for x in missing %}x{% else %}none{% endfor %}
{% for k, v in dct.items() %}{{ k }}={{ v }};{% endfor %}
{% for k in dct %}{{ k }}{% endfor %}
{% for a, b in tup %}{{ a }}{{ b }}{% endfor %}
{% for x in 'abc' %}{{ x }}-{% endfor %}
{% for x in lst %}{{ loop.cycle('a', 'b') }}{{ loop.changed(x > 1) }}{{ loop.depth }}{% endfor %}
{% for x in lst %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}
{% for x in lst %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% else %}no{% endfor %}
{% for r in [[1, [2, 3]], [4]] recursive %}{% if r is iterable %}({{ loop(r) }}){% else %}{{ r }}{{ loop.depth }}{% endif %}{% endfor %}
{% set ns = namespace(found=false, text='') %}{% for x in lst %}{% if x == 1 %}{% set ns.found = true %}{% endif %}{% set ns.text = ns.text ~ x %}{% endfor %}{{ ns.found }}{{ ns.text }}{{ ns.other is defined }}
{% set x = 1 %}{% for i in lst %}{% set x = x + i %}{{ x }},{% endfor %}{{ x }}
{% set x = 0 %}{% if yes %}{% set x = 5 %}{% endif %}{{ x }}
{% set a, b = 1, 'z' %}{{ a }}{{ b }}
{% set t = (1, 2) %}{{ t }}
{% set text %}a {{ num }}{% endset %}{{ text }}{{ text is string }}
{% set text | upper | replace('A', 'o') %}a b{% endset %}{{ text }}
{% macro m(a, b='d', c=a) %}{{ a }}{{ b }}{{ c }};{% endmacro %}{{ m(1) }}{{ m(1, 2) }}{{ m(b=3, a=4) }}{{ m() }}
{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}
{% macro m(x) %}<{{ caller('c') }}{{ x }}>{% endmacro %}{% call(y) m(1) %}body {{ y }}{% endcall %}
{% macro down(n) %}{{ n }}{% if n > 0 %}{{ down(n - 1) }}{% endif %}{% endmacro %}{{ down(5) }}
{% macro m(x) %}{{ x|upper }}{% endmacro %}{{ m('a') ~ m('b') }}{{ m('a')|length }}{{ m is callable }}{{ m.name }}
{% macro outer() %}{{ num }}{{ later }}{% endmacro %}{% set later = 'L' %}{{ outer() }}
{% filter upper %}a {{ plain }}{% endfilter %}
{% with a=1, b=num %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}
{% generation %}gen {% set inner = 1 %}{{ inner }}{% endgeneration %}{{ inner is defined }}
{%- generation -%} x {%- endgeneration -%} y
{% raw %}{{ not }} {% read %}{% endraw %}!
{%- raw -%}  {{ a }}  {%- endraw -%}  !
a {#- gone -#} b {# kept #} c
  {% if yes %}
  yes
  {% endif %}
end
  {%+ if yes %}
  yes
  {%+ endif +%}
end
{{ 'a' }}   
  {{- 'b' -}}  
c
{% if yes -%}   x   {%- endif %}
  {# comment #}
  text
{% for x in lst -%}
   {{ x }}
{% endfor %}
{% if no %}a{% elif num == 7 %}b{% else %}c{% endif %}
{% if not no and lst|length == 3 and 'a' in 'cat' %}ok{% endif %}
{% block title %}in block{% endblock title %}
{% autoescape false %}{{ '<b>' }}{% endautoescape %}
{% print 1, 'a' %}
{% set c = cycler('x', 'y') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}
{% set j = joiner(', ') %}{% for x in lst %}{{ j() }}{{ x }}{% endfor %}
{% set d = dict(a=1) %}{% for k, v in d|dictsort %}{{ k }}{{ v }}{% endfor %}
{% for group in rows|groupby('k') %}{{ group.grouper }}:{{ group.list|length }}{{ group[0] }};{% endfor %}
{% for m in messages %}{{ m.role }}{{ m.content }}{{ m.tool_calls is defined }}{{ m.name }}{% endfor %}
{% set x = lst %}{% set x = x + [4] %}{{ x }}{{ lst }}
{{ lst.append(1) if false }}ok
{% for i in range(3) %}{% for j in range(2) %}{{ i }}{{ j }}{{ loop.index }} {% endfor %}{% endfor %}
{% for x in lst %}{% set outer = loop %}{% for y in [1] %}{{ outer.index }}{{ loop.index }}{% endfor %}{% endfor %}
{% set ns = namespace(stop=false) %}{% for x in lst if not ns.stop %}{{ x }}{% set ns.stop = true %}{% endfor %}
{% set gen = lst|map('string') %}{{ gen|list }}{{ gen|list }}
{% if messages[0]['role'] == 'system' %}s{% else %}u{% endif %}{{ messages[1:]|length }}
{% set ns = namespace(a=[1]) %}{% set ns.a = ns.a + [2] %}{{ ns.a }}
{{ raise_exception('stop') if false else 'go' }}
{% macro f(x) %}{% if x is mapping %}{ {% for k, v in x.items() %}{{ k }}: {{ f(v) }}{% if not loop.last %}, {% endif %}{% endfor %} }{% elif x is iterable and x is not string %}[{% for y in x %}{{ f(y) }}{% endfor %}]{% else %}{{ x|tojson }}{% endif %}{% endmacro %}{{ f(nested) }}{{ f(dct) }}
"""
# In the manner of published ones, each using other parts of the language.
TEMPLATES = {
    "neighbours": """{{ bos_token }}{%- for message in messages %}
    {%- if loop.previtem is not defined or loop.previtem.role != message.role %}<|{{ message.role }}|>{% endif %}
    {%- if message.content is string %}{{ message.content | trim }}{% elif message.content is iterable %}
        {%- for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% else %}<{{ part['type'] }}>{% endif %}{% endfor %}
    {%- endif %}
    {%- if loop.last or loop.nextitem.role != 'tool' %}<|end|>{% endif %}
{%- endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}""",
    "printed": """{% if tools is iterable and tools | length > 0 %}Tools: {{ tools }}
{% endif %}{% for m in messages %}{{ loop.index0 }} {{ m }}
{% if m.tool_calls %}{% for call in m.tool_calls %}{{ call.function.name }}({% for k, v in call.function.arguments.items() %}{{ k }}={{ v }}{{ ', ' if not loop.last }}{% endfor %}){% endfor %}{% endif %}{% endfor %}{{ add_generation_prompt }}""",
    "schema": """{%- macro kind(spec) -%}
    {%- if spec.type is string -%}{{ spec.type }}{%- elif spec.type is sequence -%}{{ spec.type | join(' or ') }}{%- endif -%}
    {%- if spec.enum %} of {{ spec.enum | tojson }}{% endif -%}
    {%- if 'default' in spec %} = {{ spec.default }}{% endif -%}
{%- endmacro -%}
{%- if tools -%}
    {%- for tool in tools -%}
        {%- set function = tool.function if tool.function is defined else tool -%}
        {{- '## ' ~ function.name ~ '\\n' -}}
        {{- function.description | default('nothing', true) | trim -}}
        {%- for name, spec in (function.parameters.properties or {}) | dictsort %}
  - {{ name }}: {{ kind(spec) }}{% if name in (function.parameters.required or []) %} (needed){% endif %}
        {%- endfor %}
{{ '' }}
        {{- function | tojson(indent=2) }}
    {%- endfor %}
{%- endif %}
{%- for m in messages %}
[{{ m.role | upper }}] {{ m.content if m.content is string else m.content | map(attribute='text') | select('defined') | join }}
{%- endfor %}""",
    "reasoning": """{%- set ns = namespace(last=-1) %}
{%- for m in messages[::-1] %}
    {%- set index = messages|length - 1 - loop.index0 %}
    {%- if ns.last < 0 and m.role == 'user' and m.content is string and not m.content.startswith('<tool') %}{%- set ns.last = index %}{%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- set content = m.content if m.content is string else '' %}
    {%- if m.role == 'assistant' %}
        {%- set reasoning = '' %}
        {%- if m.reasoning_content is string %}{%- set reasoning = m.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|assistant|>' }}
        {%- generation %}
        {%- if loop.index0 > ns.last and reasoning %}{{- '<think>\\n' ~ reasoning.strip() ~ '\\n</think>\\n\\n' }}{%- endif %}
        {{- content }}
        {%- endgeneration %}
    {%- elif m.role in ['user', 'system', 'developer'] %}
        {{- '<|' ~ m.role ~ '|>' ~ content }}
    {%- else %}
        {{- '<|tool ' ~ (m.name or 'unknown') ~ '|>' ~ content }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- if enable_thinking is defined and not enable_thinking %}{{- '<think></think>' }}{%- endif %}{%- endif %}""",
    "strict": """{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] | trim + '\\n\\n' %}{%- set loop_messages = messages[1:] %}{%- else %}{%- set system = '' %}{%- set loop_messages = messages %}{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception('Roles must take turns') }}{%- endif -%}
    {{ '<start>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' + (system if loop.first else '') }}
    {%- if message['content'] is string -%}{{ message['content'] | trim }}{%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}{%- if item['type'] == 'image' -%}{{ '<image>' }}{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}{%- endfor -%}
    {%- else -%}{{ raise_exception('Invalid content type') }}{%- endif -%}{{ '<end>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start>model\\n' }}{%- endif -%}""",
    "arguments": """{%- for m in messages -%}
    {%- if m.tool_calls is defined and m.tool_calls is iterable and m.tool_calls | length > 0 -%}
        {%- for call in m.tool_calls -%}
            {{- '<call id="%s">' | format(call.id | default('none')) -}}
            {%- if call.function.arguments is mapping -%}
                {%- for name, value in call.function.arguments | items -%}
                    {{- name ~ '=' -}}
                    {%- if value is mapping or (value is iterable and value is not string) -%}{{- value | tojson | safe -}}
                    {%- elif value is boolean -%}{{- value | string | lower -}}
                    {%- elif value is none -%}null
                    {%- else -%}{{- value | string -}}{%- endif -%};
                {%- endfor -%}
            {%- else -%}{{- call.function.arguments -}}{%- endif -%}
            {{- '</call>' -}}
        {%- endfor -%}
    {%- endif -%}
    {{- m.role[0] | upper ~ ':' ~ (m.content or '') ~ eos_token -}}
{%- endfor -%}""",
}


def case(name, template, messages, variables, opened):
    """A case with what transformers renders, or `None` as `rendered` where it refuses."""
    chat = [{key: value for key, value in message.items() if value is not None} for message in messages]
    given = dict(variables)
    try:
        texts, _ = render_jinja_template(
            conversations=[chat], tools=given.pop("tools", None), documents=given.pop("documents", None),
            chat_template=template, add_generation_prompt=opened, **TOKENS, **given)
        rendered, refused = texts[0], None
    except Exception as error:
        rendered, refused = None, f"{type(error).__name__}: {error}"[:200]
    return {"name": name, "template": template, "messages": messages, "variables": variables, "opened": opened,
            "rendered": rendered, "refused": refused}


def written_for_the_test():
    messages = [SYSTEM, user("Hi")]
    expressions = [one for line in EXPRESSIONS.split("\n") for one in line.split("|||")]
    for expression in expressions:
        yield case(f"{{{{ {expression} }}}}", "{{ " + expression + " }}", messages, NAMES, False)
    blocks, lines = [], STATEMENTS.strip("\n").split("\n")
    for line in lines:
        # A line that does not begin a template of its own goes on with the one before.
        if blocks and blocks[-1].count("{% if") + blocks[-1].count("{%+ if") + blocks[-1].count("{% for x in lst -%}") > \
                blocks[-1].count("endif") + blocks[-1].count("endfor") and "{%" in blocks[-1].split("\n")[0]:
            blocks[-1] += "\n" + line
        else:
            blocks.append(line)
    for block in blocks:
        yield case(block, block, messages, NAMES, False)
    for name, template in TEMPLATES.items():
        for chat, messages, variables, opened in CHATS:
            yield case(f"{name}, {chat}", template, messages, variables, opened)


def make(out):
    out.mkdir(parents=True, exist_ok=True)
    # Python writes addresses of what has no text of its own.
    cases = [one for one in written_for_the_test() if one["rendered"] is not None and " at 0x" not in one["rendered"]]
    kept = [{key: value for key, value in one.items() if key != "refused" and not (key == "variables" and value is NAMES)} for one in cases]
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in kept)
    head = json.dumps({"names": NAMES, "tokens": TOKENS}, ensure_ascii=False)[:-1]
    (out / "renderings.json").write_text(f'{head}, "cases": [\n{lines}\n]}}\n', encoding="utf-8")
